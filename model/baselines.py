"""Published networks of the same size class, run on the same photos and boxes as ours.

Each gets the input that its authors describe: PP-TinyPose and PicoDet-S (PaddleDetection), RTMDet-nano
(OpenMMLab), MoveNet Lightning (Google). None is part of this project; callers pass the folder of the files.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import openvino

from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Alignment, Fit, Floats, Pixels, Resize, invert, transform
from model.predictors import flip_average, open_session
from model.topdown import Detector, Network, PoseEstimator

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def _imagenet(images: Pixels) -> Floats:
    """Images uint8 BGR (N, H, W, 3) as normalised RGB float32 (N, 3, H, W)."""
    return _planes(images[..., ::-1], IMAGENET_MEAN, IMAGENET_STD)


def _planes(images: Pixels, mean: Floats, std: Floats) -> Floats:
    """Images uint8 (N, H, W, 3) as normalised float32 (N, 3, H, W); mean and std: (3,).

    Plane by plane, so that their time is not spent on copies that the authors' own code does not make.
    """
    planes = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
    for channel in range(3):
        plane = planes[:, channel]
        np.subtract(images[..., channel], mean[channel], out=plane)
        np.multiply(plane, 1 / std[channel], out=plane)
    return planes


def compile_ir(
    path: Path, shape: list[int], *, threads: int = 1, callers: int = 1, precision: str = "f32"
) -> openvino.CompiledModel:
    """An OpenVINO IR file compiled for an input shape (-1: variable), for `callers` parallel calls with
    `threads` threads each; precision: f32 or bf16."""
    core = openvino.Core()
    network = core.read_model(path)
    network.reshape({network.inputs[0]: shape})
    hints = {
        "INFERENCE_NUM_THREADS": threads * callers,
        "NUM_STREAMS": callers,
        "ENABLE_CPU_PINNING": False,  # the calling threads compute too
        "INFERENCE_PRECISION_HINT": precision,
    }
    return core.compile_model(network, "CPU", hints)


def pp_tinypose(folder: Path, *, dark: bool = True, flip: bool = False, onnx: bool = False) -> PoseEstimator:
    """PP-TinyPose 256x192: heatmaps (64, 48) whose corner pixels are at the corner pixels of the crop.

    onnx: run by onnxruntime, crop by crop as ours, instead of OpenVINO.
    """
    metadata = PoseMetadata(
        name="PP-TinyPose",
        version="",
        commit="",
        input_size=(256, 192),
        heatmap_stride=4,
        crop_padding=1.25,
        alignment=Alignment.CORNERS,
    )
    heatmaps = _by_onnx(folder) if onnx else _by_openvino(folder, metadata.input_size)
    run = flip_average(heatmaps, metadata.skeleton.flip_index) if flip else heatmaps
    return PoseEstimator(run, metadata, dark=dark)


def _by_openvino(folder: Path, size: tuple[int, int]) -> Network:
    network = compile_ir(folder / "pp-tinypose-256x192.xml", [-1, 3, *size])
    output = next(o for o in network.outputs if len(o.partial_shape) == 4)

    def heatmaps(crops: Pixels) -> tuple[Floats, ...]:
        return (np.array(network(_imagenet(crops))[output], np.float32),)

    return heatmaps


def _by_onnx(folder: Path) -> Network:
    session = open_session(folder / "pp-tinypose-256x192.onnx")

    def heatmaps(crops: Pixels) -> tuple[Floats, ...]:
        each = [session.run(["heatmaps"], {"image": _imagenet(crop)})[0] for crop in crops[:, None]]
        return (np.asarray(np.concatenate(each), np.float32),)

    return heatmaps


class MoveNetLightning:
    """MoveNet SinglePose Lightning on square crops, one at a time; it has no heatmaps."""

    side = 192
    padding = 1.25

    def __init__(self, folder: Path) -> None:
        self._session = open_session(folder / "movenet-lightning-192.onnx")
        self._input = self._session.get_inputs()[0].name

    def estimate(self, images: Sequence[Pixels], boxes: Sequence[Floats]) -> list[Floats]:
        """Keypoints (N, 17, 3) as x, y in image pixels and score, of the boxes (N, 4) of each image."""
        return [
            np.array([self._person(image, box) for box in each], np.float32).reshape(-1, 17, 3)
            for image, each in zip(images, boxes, strict=True)
        ]

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


def picodet(folder: Path) -> Detector:
    """PicoDet-S 320, pedestrian: the image is stretched to a square, boxes are in its pixels."""
    metadata = _detector_metadata("PicoDet-S", Fit.STRETCH, Resize.CUBIC)
    network = compile_ir(folder / "picodet-s-320-pedestrian.xml", [1, 3, *metadata.input_size])

    def boxes_and_scores(images: Pixels) -> tuple[Floats, ...]:
        found = [
            [np.array(output) for output in network(_imagenet(each)).values()] for each in images[:, None]
        ]
        boxes, scores = (np.concatenate(each) for each in zip(*found, strict=True))
        return boxes, scores[:, 0]

    return Detector(boxes_and_scores, metadata)


def rtmdet(folder: Path) -> Detector:
    """RTMDet-nano 320, person: the image is letterboxed; each point has a logit and four distances."""
    session = open_session(folder / "rtmdet-nano-320-person.onnx")
    mean = np.array([103.53, 116.28, 123.675], np.float32)
    std = np.array([57.375, 57.12, 58.395], np.float32)

    def one(image: Pixels) -> tuple[Floats, Floats]:
        maps = session.run(None, {"images": _planes(image[None], mean, std)})
        levels = [_boxes(np.asarray(m[0], np.float32), s) for m, s in zip(maps, (8, 16, 32), strict=True)]
        boxes, scores = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        return boxes, scores

    def boxes_and_scores(images: Pixels) -> tuple[Floats, ...]:
        return tuple(np.stack(each) for each in zip(*map(one, images), strict=True))

    return Detector(boxes_and_scores, _detector_metadata("RTMDet-nano"))


def _detector_metadata(
    name: str, fit: Fit = Fit.TOP_LEFT, resize: Resize = Resize.LINEAR
) -> DetectorMetadata:
    return DetectorMetadata(
        name=name, version="", commit="", input_size=(320, 320), letterbox_fill=114, fit=fit, resize=resize
    )


def _boxes(level: Floats, stride: int) -> tuple[Floats, Floats]:
    """Boxes (h * w, 4) and scores in [0, 1] of a map (h, w, 5) of logit, left, top, right, bottom."""
    rows, columns = level.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32) * np.float32(stride)
    logit, left, top, right, bottom = np.moveaxis(level, 2, 0)
    boxes = np.stack([x - left, y - top, x + right, y + bottom], 2, dtype=np.float32)
    return boxes.reshape(-1, 4), np.asarray(1 / (1 + np.exp(-logit.ravel())), np.float32)
