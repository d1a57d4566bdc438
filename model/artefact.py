"""What an exported network says of itself: the metadata of an ONNX file, written and read here only.

A file takes `image`, uint8 (N, H, W, 3) BGR, and gives either

- `boxes` (N, A, 4) x1, y1, x2, y2 in pixels of the input and `scores` (N, A) in [0, 1]: a detector;
- `heatmaps` (N, K, h, w), or `x` (N, K, bins) and `y` (N, K, bins) of SimCC: a pose network.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from model.geometry import Alignment, Fit, Resize
from model.keypoints import COCO, Skeleton

Task = Literal["pose", "detector"]
T = TypeVar("T")

#: Version of the metadata. A reader refuses every other.
FORMAT = "1"


class MetadataError(ValueError):
    """The metadata are not those of a network that this code can run."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What the files of both tasks say.

    input_size: height and width of the input in pixels. commit: of the code that wrote the file.
    source, source_sha256, licence: of the published file that the network comes from, where it does.
    precision: float32 or int8. float32_sha256: of the float32 file that an int8 file was made from.
    """

    task: ClassVar[Task]
    name: str
    version: str
    commit: str
    input_size: tuple[int, int]
    source: str = ""
    source_sha256: str = ""
    licence: str = ""
    precision: str = "float32"
    float32_sha256: str = ""

    def entries(self) -> dict[str, str]:
        """The metadata as the text that an ONNX file holds; entries at their default are left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        skeleton = values.pop("skeleton", None)
        if skeleton is not None:
            values["keypoint_names"] = skeleton.names
            if skeleton != COCO:
                values["keypoint_edges"] = skeleton.edges
                values["keypoint_flip_pairs"] = skeleton.flip_pairs
                values["keypoint_sigmas"] = skeleton.oks_sigmas
        defaults = {field.name: field.default for field in fields(self)}
        kept = {key: value for key, value in values.items() if value != defaults.get(key, MISSING)}
        return {"format": FORMAT, "task": self.task} | {key: _text(value) for key, value in kept.items()}

    @classmethod
    def read(cls, entries: Mapping[str, str]) -> Self:
        """The metadata of a file. Raises MetadataError."""
        if entries.get("format") != FORMAT:
            raise MetadataError(f"format {entries.get('format')!r}, not {FORMAT!r}")
        if entries.get("task") != cls.task:
            raise MetadataError(f"made for task {entries.get('task')!r}, not {cls.task!r}")
        required = ["keypoint_names"] if cls.task == "pose" else []
        required += [field.name for field in fields(cls) if field.default is MISSING]
        if missing := [key for key in required if key not in entries]:
            raise MetadataError(f"metadata without {', '.join(missing)}")
        known = [field.name for field in fields(cls) if field.name in entries]
        values: dict[str, Any] = {key: _parse(entries, key, _READERS.get(key, str)) for key in known}
        if cls.task == "pose":
            values["skeleton"] = _skeleton(entries)
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class PoseMetadata(Metadata):
    """A pose network.

    crop_padding: factor of the crop round its box. alignment: of crop and heatmap pixels.
    heatmap_stride: pixels of the crop from one heatmap pixel, or SimCC bin, to the next.
    """

    task: ClassVar[Task] = "pose"
    crop_padding: float
    heatmap_stride: float
    alignment: Alignment = Alignment.CENTRES
    skeleton: Skeleton = COCO

    def fits(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether a network gives outputs of these shapes for one image."""
        height, width = (round(side / self.heatmap_stride) for side in self.input_size)
        keypoints = len(self.skeleton.names)
        heatmaps, simcc = [(1, keypoints, height, width)], [(1, keypoints, width), (1, keypoints, height)]
        return list(shapes) in (heatmaps, simcc)


@dataclass(frozen=True, kw_only=True)
class DetectorMetadata(Metadata):
    """A person detector.

    fit, resize: where the image lies in the input, and how it is scaled. letterbox_fill: grey level of the
    input where it does not lie.
    input_step: 0 where the input always has `input_size`; otherwise an input may be smaller, with sides that
    are multiples of `input_step`. box_margin: no keypoints are estimated in a box that scores less than
    this factor times the lowest score that the caller asks for; the score of a person is that of the box
    times that of the keypoints. average_iou: boxes that overlap a better one by so much are averaged with
    it; 0: none are.
    """

    task: ClassVar[Task] = "detector"
    letterbox_fill: int
    fit: Fit = Fit.TOP_LEFT
    resize: Resize = Resize.AREA
    input_step: int = 0
    box_margin: float = 1.0
    average_iou: float = 0.0

    def fits(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether a network gives outputs of these shapes for one image."""
        match shapes:
            case [(1, boxes, 4), (1, scores)]:
                return boxes == scores
        return False


#: The metadata of each task.
KINDS: dict[Task, type[PoseMetadata] | type[DetectorMetadata]] = {
    "pose": PoseMetadata,
    "detector": DetectorMetadata,
}


def int8_file(network: Path) -> Path:
    """Where the int8 form of an ONNX file is."""
    return network.with_suffix(".int8.onnx")


def _text(value: object) -> str:
    if isinstance(value, str):  # enumerations too
        return str(value)
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _parse(entries: Mapping[str, str], key: str, read: Callable[[str], T]) -> T:
    try:
        return read(entries[key])
    except (ValueError, TypeError) as error:
        raise MetadataError(f"{key} {entries[key]!r} cannot be read") from error


def _size(text: str) -> tuple[int, int]:
    height, width = json.loads(text)
    return int(height), int(width)


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in json.loads(text))


_READERS: dict[str, Callable[[str], Any]] = {
    "input_size": _size,
    "letterbox_fill": int,
    "input_step": int,
    "box_margin": float,
    "average_iou": float,
    "crop_padding": float,
    "heatmap_stride": float,
    "alignment": Alignment,
    "fit": Fit,
    "resize": Resize,
}


def _skeleton(entries: Mapping[str, str]) -> Skeleton:
    """The skeleton that the metadata name: COCO's for its names, otherwise one that they describe."""
    names = _parse(entries, "keypoint_names", lambda text: tuple(str(name) for name in json.loads(text)))
    if names == COCO.names and "keypoint_edges" not in entries:
        return COCO
    needed = ("keypoint_edges", "keypoint_flip_pairs", "keypoint_sigmas")
    if missing := [key for key in needed if key not in entries]:
        raise MetadataError(f"keypoints other than COCO's need {', '.join(missing)}")
    edges, flip_pairs = (_parse(entries, key, _pairs) for key in needed[:2])
    sigmas = _parse(entries, needed[2], lambda text: tuple(float(sigma) for sigma in json.loads(text)))
    try:
        return Skeleton(names, edges, flip_pairs, sigmas)
    except ValueError as error:
        raise MetadataError(str(error)) from error
