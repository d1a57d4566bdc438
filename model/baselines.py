"""Published networks of the same size class, run on the same photos and boxes as ours.

Each is fed as its authors feed it: PP-TinyPose and PicoDet-S (PaddleDetection), RTMDet-nano
(OpenMMLab), MoveNet Lightning (Google). None is part of this project; the directory that holds them
is given by the caller.
"""

from pathlib import Path

import cv2
import numpy as np
import openvino

from model.geometry import Floats, Pixels, decode_heatmaps, invert, transform
from model.keypoints import FLIP_INDEX
from model.metrics import Scored
from model.predictors import flip_average, open_session, suppress

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def _imagenet(images: Pixels) -> Floats:
    """BGR (N, H, W, 3) as normalised RGB (N, 3, H, W)."""
    return np.ascontiguousarray(((images[..., ::-1] - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2))


def compile_ir(
    path: Path, shape: list[int], *, threads: int = 1, callers: int = 1, precision: str = "f32"
) -> openvino.CompiledModel:
    """An OpenVINO IR file at an input shape (-1: any), for so many callers at a time with so many threads
    each; precision: f32 or bf16."""
    core = openvino.Core()
    network = core.read_model(path)
    network.reshape({network.inputs[0]: shape})
    hints = {
        "INFERENCE_NUM_THREADS": threads * callers,
        "NUM_STREAMS": callers,
        "ENABLE_CPU_PINNING": False,  # the callers' own threads compute too
        "INFERENCE_PRECISION_HINT": precision,
    }
    return core.compile_model(network, "CPU", hints)


class PPTinyPose:
    """PP-TinyPose 256x192: heatmaps (64, 48) whose corner pixels lie on the corner pixels of the crop."""

    size = 256, 192
    padding = 1.25

    def __init__(self, folder: Path, *, dark: bool = True, flip: bool = False) -> None:
        self._network = compile_ir(folder / "pp-tinypose-256x192.xml", [-1, 3, *self.size])
        self._output = next(o for o in self._network.outputs if len(o.partial_shape) == 4)
        self._dark = dark
        self._mirror = FLIP_INDEX if flip else None

    def keypoints(self, image: Pixels, boxes: Floats) -> Floats:
        affines = [self._affine(box) for box in boxes]
        height, width = self.size
        crops = np.stack([cv2.warpAffine(image, affine, (width, height)) for affine in affines])
        heatmaps = flip_average(self._heatmaps, np.asarray(crops, np.uint8), self._mirror)
        decoded = decode_heatmaps(heatmaps, 1, dark=self._dark)
        rows, columns = heatmaps.shape[2:]
        spacing = np.array([(width - 1) / (columns - 1), (height - 1) / (rows - 1)], np.float32)
        for person, affine in zip(decoded, affines, strict=True):
            person[:, :2] = transform(person[:, :2] * spacing, invert(affine))
        return decoded

    def _affine(self, box: Floats) -> Floats:
        x1, y1, x2, y2 = box.tolist()
        height, width = self.size
        box_width = max(x2 - x1, (y2 - y1) * width / height)
        scale = (width - 1) / (box_width * self.padding)
        shift_x = (width - 1) / 2 - scale * (x1 + x2) / 2
        shift_y = (height - 1) / 2 - scale * (y1 + y2) / 2
        return np.array([[scale, 0, shift_x], [0, scale, shift_y]], np.float32)

    def _heatmaps(self, crops: Pixels) -> Floats:
        return np.array(self._network(_imagenet(crops))[self._output], np.float32)


class MoveNetLightning:
    """MoveNet SinglePose Lightning on square crops, one at a time; it gives no heatmaps."""

    side = 192
    padding = 1.25

    def __init__(self, folder: Path) -> None:
        self._session = open_session(folder / "movenet-lightning-192.onnx")
        self._input = self._session.get_inputs()[0].name

    def keypoints(self, image: Pixels, boxes: Floats) -> Floats:
        return np.stack([self._person(image, box) for box in boxes])

    def _person(self, image: Pixels, box: Floats) -> Floats:
        x1, y1, x2, y2 = box.tolist()
        scale = self.side / (max(x2 - x1, y2 - y1) * self.padding)
        shift_x = self.side / 2 - scale * (x1 + x2) / 2
        shift_y = self.side / 2 - scale * (y1 + y2) / 2
        affine = np.array([[scale, 0, shift_x], [0, scale, shift_y]], np.float32)
        crop = cv2.warpAffine(image, affine, (self.side, self.side))[None, :, :, ::-1].astype(np.int32)
        y_x_score = np.asarray(self._session.run(None, {self._input: crop})[0], np.float32).reshape(17, 3)
        points = transform(y_x_score[:, 1::-1] * self.side, invert(affine))
        return np.concatenate([points, y_x_score[:, 2:]], 1)


class PicoDet:
    """PicoDet-S 320, pedestrian: the image stretched to a square, boxes in its pixels."""

    side = 320

    def __init__(self, folder: Path) -> None:
        path = folder / "picodet-s-320-pedestrian.xml"
        self._network = compile_ir(path, [1, 3, self.side, self.side])

    def persons(self, image: Pixels) -> Scored:
        height, width = image.shape[:2]
        square = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_CUBIC)
        outputs = self._network(_imagenet(np.asarray(square, np.uint8)[None]))
        boxes, scores = np.array(outputs[0][0]), np.array(outputs[1][0, 0])
        scale = np.array([width, height, width, height]) / self.side
        return suppress(boxes * scale, scores, image)


class RTMDet:
    """RTMDet-nano 320, person: the image letterboxed; a logit and distances to the sides at each point."""

    side = 320
    strides = 8, 16, 32
    mean = np.array([103.53, 116.28, 123.675], np.float32)
    std = np.array([57.375, 57.12, 58.395], np.float32)

    def __init__(self, folder: Path) -> None:
        self._session = open_session(folder / "rtmdet-nano-320-person.onnx")

    def persons(self, image: Pixels) -> Scored:
        height, width = image.shape[:2]
        scale = self.side / max(height, width)
        resized = cv2.resize(image, (round(width * scale), round(height * scale)))
        canvas = np.full((self.side, self.side, 3), 114, np.uint8)
        canvas[: resized.shape[0], : resized.shape[1]] = resized
        normalised = ((canvas - self.mean) / self.std).transpose(2, 0, 1)[None]
        maps = self._session.run(None, {"images": np.ascontiguousarray(normalised)})
        levels = [_boxes(np.asarray(m[0], np.float32), s) for m, s in zip(maps, self.strides, strict=True)]
        boxes, scores = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        return suppress(boxes / scale, scores, image)


def _boxes(level: Floats, stride: int) -> tuple[Floats, Floats]:
    """Boxes (h * w, 4) and scores in [0, 1] of a map (h, w, 5) of logit, left, top, right, bottom."""
    rows, columns = level.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * np.float32(stride)
    logit, left, top, right, bottom = np.moveaxis(level, 2, 0)
    boxes = np.stack([x - left, y - top, x + right, y + bottom], 2, dtype=np.float32)
    return boxes.reshape(-1, 4), np.asarray(1 / (1 + np.exp(-logit.ravel())), np.float32)
