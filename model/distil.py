"""Published networks as teachers: they run on the same image as the student."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from model.augment import warp
from model.baselines import IMAGENET_MEAN, IMAGENET_STD, compile_ir
from model.detector import grid
from model.geometry import Floats
from model.lgmpose import HEATMAP_STRIDE
from model.pose_dataset import PoseBatch

#: Offsets of PP-TinyPose's maps in heatmap pixels: to the right (measured on mirrored crops), and below the
#: human labels (3,622 joints of training photos): face, shoulders, elbows, wrists, hips, knees, ankles.
TINYPOSE_RIGHT = 0.39
TINYPOSE_BELOW = (*[0.19] * 5, *[0.42] * 2, *[0.31] * 2, *[0.35] * 2, *[1.0] * 2, *[0.74] * 2, *[0.5] * 2)


def _normalised(images: Tensor) -> Tensor:
    """RGB images (n, 3, H, W) in 0..255, normalised with ImageNet's mean and deviation, on the CPU."""
    mean, std = (torch.from_numpy(each).reshape(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.detach().cpu() - mean) / std


class DenseTeacher:
    """RTMDet-nano (Lyu et al., 2022) for persons at 320 x 320; its points are those of the student."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.points, _ = grid((320, 320))

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (n, A, 4) in input pixels and scores (n, A) of RGB images (n, 3, 320, 320) in 0..255."""
        bgr = _normalised(images).flip(1).contiguous().numpy()
        dense = torch.from_numpy(np.concatenate([self._one(image) for image in bgr]))
        boxes = torch.cat([self.points - dense[..., 1:3], self.points + dense[..., 3:5]], -1)
        return boxes.to(images.device), dense[..., 0].sigmoid().to(images.device)

    def _one(self, image: Floats) -> Floats:
        maps = self.session.run(None, {"images": image[None]})
        return np.concatenate([m.reshape(1, -1, 5) for m in maps], 1)


class HeatmapTeacher:
    """PP-TinyPose 256x192 (PaddleDetection), in bfloat16 if the CPU supports it.

    The corner pixels of its maps are at the corner pixels of the crop. The maps are resampled to those of the
    student, whose pixels are the centres of 4 x 4 crop pixels, and shifted to the human labels.
    """

    size = 256, 192

    def __init__(self, path: Path, threads: int, callers: int = 1) -> None:
        """callers: number of threads that may call at the same time, each with `threads` threads."""
        precision = "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "f32"
        self.network = compile_ir(
            path, [-1, 3, *self.size], threads=threads, callers=callers, precision=precision
        )
        self.output = next(o for o in self.network.outputs if len(o.partial_shape) == 4)
        height, width = self.size
        (sx, x), (sy, y) = _corner_aligned(width), _corner_aligned(height)
        self.resampling = torch.tensor(
            [[[sx, 0, x + TINYPOSE_RIGHT], [0, sy, y + below]] for below in TINYPOSE_BELOW]
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Heatmaps (n, K, 64, 48) of RGB crops (n, 3, 256, 192) in 0..255."""
        rgb = _normalised(images).contiguous().numpy()
        maps = torch.from_numpy(
            np.array(self.network.create_infer_request().infer(rgb)[self.output], np.float32)
        )
        n, joints, height, width = maps.shape
        apart = maps.reshape(n * joints, 1, height, width)
        moved = warp(apart, self.resampling.repeat(n, 1, 1), (height, width))
        return moved.reshape(maps.shape).to(images.device)


def _corner_aligned(length: int) -> tuple[float, float]:
    """Scale and offset from heatmap pixels of the student to those of the teacher; length: crop pixels."""
    step = (length // HEATMAP_STRIDE - 1) / (length - 1)
    return HEATMAP_STRIDE * step, (HEATMAP_STRIDE - 1) / 2 * step


def distil(batch: PoseBatch, maps: Tensor) -> PoseBatch:
    """The batch with the teacher's heatmaps (n, K, h, w) as targets, all with weight 1.

    Joints with a human label, which have weight 1 in `batch`, get the mean of both targets.
    """
    labelled = (batch.weights == 1)[:, :, None, None]
    heatmaps = torch.where(labelled, (batch.heatmaps + maps) / 2, maps)
    return replace(batch, heatmaps=heatmaps, weights=torch.ones_like(batch.weights))
