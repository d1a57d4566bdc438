"""A published detector as teacher: dense scores and boxes of the very image that the student sees."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from model.detector import grid

MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # BGR


class DenseTeacher:
    """RTMDet-nano (Lyu et al., 2022) for persons at 320 x 320; its points are the student's points."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.points, _ = grid((320, 320))

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (n, A, 4) in input pixels and scores (n, A) of RGB images (n, 3, 320, 320) in 0..255."""
        bgr = images.detach().cpu().flip(1)
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
        normal = ((bgr - mean) / std).contiguous().numpy()
        dense = torch.from_numpy(np.concatenate([self._one(image) for image in normal]))
        boxes = torch.cat([self.points - dense[..., 1:3], self.points + dense[..., 3:5]], -1)
        return boxes.to(images.device), dense[..., 0].sigmoid().to(images.device)

    def _one(
        self, image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        maps = self.session.run(None, {"images": image[None]})
        return np.concatenate([m.reshape(1, -1, 5) for m in maps], 1)
