"""What evaluation asks of a network, and our networks behind it, fed exactly as the service feeds them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from model import detector, lgmpose
from model.geometry import (
    Floats,
    Pixels,
    average_boxes,
    box_to_affine,
    crop,
    decode_heatmaps,
    invert,
    letterbox,
    non_maximum_suppression,
    transform,
)
from model.metrics import Scored

#: Crops BGR (N, H, W, 3) -> heatmaps (N, K, h, w).
HeatmapNetwork = Callable[[Pixels], Floats]
#: Images BGR (N, H, W, 3) -> boxes x1, y1, x2, y2 (N, A, 4) in their pixels and scores (N, A).
BoxNetwork = Callable[[Pixels], tuple[Floats, Floats]]

#: Candidates below this score change no figure; those above overlap at most so much.
MIN_SCORE = 0.002
MAX_IOU = 0.5
#: COCO counts at most so many boxes a photo.
MAX_BOXES = 100
#: Our detector's boxes are averaged with candidates that overlap them so much.
SAME_IOU = 0.6


class PosePredictor(Protocol):
    def keypoints(self, image: Pixels, boxes: Floats) -> Floats:
        """Keypoints (N, K, 3) as x, y in image pixels and score, of boxes (N, 4) x1, y1, x2, y2, N > 0."""
        ...


class PersonPredictor(Protocol):
    def persons(self, image: Pixels) -> Scored:
        """Boxes (N, 4) x1, y1, x2, y2 in image pixels and scores (N,) in [0, 1], by falling score."""
        ...


@dataclass(frozen=True)
class CropPose:
    """A network of person crops as a PosePredictor.

    size: (height, width) of the crop; padding: its factor round the box; dark: sub-pixel decoding;
    mirror: None, or the flip index of the keypoints, to average with the heatmaps of the mirrored crop.
    """

    network: HeatmapNetwork
    size: tuple[int, int]
    stride: int
    padding: float
    dark: bool = True
    mirror: tuple[int, ...] | None = None

    def keypoints(self, image: Pixels, boxes: Floats) -> Floats:
        affines = [box_to_affine(box, self.size, self.padding) for box in boxes]
        crops = np.stack([crop(image, affine, self.size) for affine in affines])
        decoded = decode_heatmaps(flip_average(self.network, crops, self.mirror), self.stride, dark=self.dark)
        for person, affine in zip(decoded, affines, strict=True):
            person[:, :2] = transform(person[:, :2], invert(affine))
        return decoded


def flip_average(network: HeatmapNetwork, crops: Pixels, mirror: tuple[int, ...] | None) -> Floats:
    """Heatmaps of crops (N, H, W, 3), averaged with those of their mirror images where `mirror` is given."""
    heatmaps = network(crops)
    if mirror is None:
        return heatmaps
    mirrored = network(np.ascontiguousarray(crops[:, :, ::-1]))
    return (heatmaps + mirrored[:, list(mirror), :, ::-1]) / np.float32(2)


@dataclass(frozen=True)
class LetterboxDetector:
    """A network of letterboxed images as a PersonPredictor; size: (height, width) of its input.

    margin: how much higher a box must score than the person that it leads to.
    """

    network: BoxNetwork
    size: tuple[int, int]
    fill: int
    margin: float = 1.0

    def persons(self, image: Pixels) -> Scored:
        canvas, scale = letterbox(image, self.size, self.fill)
        boxes, scores = self.network(canvas[None])
        return suppress(boxes[0] / scale, scores[0], image, SAME_IOU)


def suppress(
    boxes: npt.NDArray[np.floating[Any]], scores: Floats, image: Pixels, same_iou: float | None = None
) -> Scored:
    """The boxes (A, 4) worth keeping, cut off at the borders of the image, with their scores (A,).

    same_iou: each is averaged with the candidates that overlap it so much; None: with none.
    """
    height, width = image.shape[:2]
    boxes = boxes.clip(0, (width, height, width, height)).astype(np.float32)
    likely = (scores >= MIN_SCORE) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores = boxes[likely], scores[likely]
    kept = non_maximum_suppression(boxes, scores, MAX_IOU)[:MAX_BOXES]
    found = boxes[kept] if same_iou is None else average_boxes(boxes, scores, kept, same_iou)
    return found, scores[kept]


def load_pose(path: Path, *, dark: bool = True, mirror: tuple[int, ...] | None = None) -> CropPose:
    """Our pose network of an exported .onnx, or of a checkpoint .safetensors with its .json beside it."""
    if path.suffix == ".safetensors":
        return torch_pose(lgmpose.load(path), dark=dark, mirror=mirror)
    session = open_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    height, width = json.loads(metadata["input_size"])
    return CropPose(
        network=lambda crops: np.asarray(session.run(["heatmaps"], {"image": crops})[0], np.float32),
        size=(height, width),
        stride=int(metadata["heatmap_stride"]),
        padding=float(metadata["crop_padding"]),
        dark=dark,
        mirror=mirror,
    )


def torch_pose(
    network: lgmpose.LGMPose, *, dark: bool = True, mirror: tuple[int, ...] | None = None
) -> CropPose:
    """A pose network in memory, in evaluation mode, on the device of its weights."""

    def heatmaps(crops: Pixels) -> Floats:
        with torch.inference_mode():
            return np.asarray(network(_rgb(crops, network)).float().cpu().numpy(), np.float32)

    size = network.config.input_size
    return CropPose(heatmaps, size, lgmpose.HEATMAP_STRIDE, lgmpose.CROP_PADDING, dark=dark, mirror=mirror)


def load_detector(path: Path) -> LetterboxDetector:
    """Our detector of an exported .onnx, or of a checkpoint .safetensors with its .json beside it."""
    if path.suffix == ".safetensors":
        return torch_detector(detector.load(path))
    session = open_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    height, width = json.loads(metadata["input_size"])

    def boxes_and_scores(images: Pixels) -> tuple[Floats, Floats]:
        boxes, scores = session.run(["boxes", "scores"], {"image": images})
        return np.asarray(boxes, np.float32), np.asarray(scores, np.float32)

    margin = float(metadata.get("box_margin", 1))
    return LetterboxDetector(boxes_and_scores, (height, width), int(metadata["letterbox_fill"]), margin)


def torch_detector(network: detector.PersonDetector) -> LetterboxDetector:
    """A detector in memory, in evaluation mode, on the device of its weights."""

    def boxes_and_scores(images: Pixels) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            boxes, scores = network(_rgb(images, network))
        return boxes.float().cpu().numpy(), scores.float().cpu().numpy()

    config = network.config
    return LetterboxDetector(boxes_and_scores, config.input_size, detector.LETTERBOX_FILL, config.box_margin)


def _rgb(images: Pixels, network: torch.nn.Module) -> torch.Tensor:
    device = next(network.parameters()).device
    return torch.from_numpy(images[..., ::-1].copy()).to(device).permute(0, 3, 1, 2).float()


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file on one CPU thread, so that figures do not depend on the machine or disturb it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
