"""The Open Inference Protocol's view of the service: one model, whose tensors are an image and its persons.

Tensors travel as their bytes: row by row, little endian, each element of BYTES behind its length in 4 bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from service.errors import InvalidArgument, NotFound
from service.types import MAX_PERSONS, ROTATIONS, Floats, Options, Picture, Poses, RawImage

MODEL = "lgm-pose"
VERSION = "1"  # of the tensors; the networks have their own
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data",)
BINARY_DATA, BINARY_OUTPUT = "binary_data", "binary_data_output"  # parameters of outputs and requests
Parameter: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, type and shape of a tensor; -1 for a side that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


INPUTS = (TensorMetadata("image", "BYTES", (1,)), TensorMetadata("pixels", "UINT8", (1, -1, -1, 3)))
OUTPUTS = (
    TensorMetadata("boxes", "FP32", (-1, 4)),
    TensorMetadata("scores", "FP32", (-1,)),
    TensorMetadata("keypoints", "FP32", (-1, 17, 3)),
)
OUTPUT_NAMES = tuple(output.name for output in OUTPUTS)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


def check_model(name: str, version: str = "") -> None:
    """Raises NotFound for another model or version than ours; an empty version is any."""
    if name != MODEL:
        raise NotFound(f"there is no model {name[:64]!r}, only {MODEL!r}")
    if version not in ("", VERSION):
        raise NotFound(f"model {MODEL!r} has no version {version[:64]!r}, only {VERSION!r}")


def read_picture(tensors: Sequence[Tensor]) -> Picture:
    """The image of a request: its one tensor, `image` or `pixels`. Raises InvalidArgument."""
    if len(tensors) != 1:
        raise InvalidArgument(f"{len(tensors)} inputs: send one, `image` or `pixels`")
    (tensor,) = tensors
    expected = {each.name: each for each in INPUTS}.get(tensor.name)
    if expected is None:
        raise InvalidArgument(f"unknown input {tensor.name[:64]!r}: send `image` or `pixels`")
    if tensor.datatype != expected.datatype:
        raise InvalidArgument(f"input {tensor.name!r} is {expected.datatype}, not {tensor.datatype[:16]!r}")
    if not _fits(tensor.shape, expected.shape):
        raise InvalidArgument(
            f"input {tensor.name!r} has shape {list(expected.shape)}, not {list(tensor.shape[:8])}"
        )
    if tensor.name == "image":
        return _only_element(tensor.data)
    _, height, width, _ = tensor.shape
    if len(tensor.data) != prod(tensor.shape):
        raise InvalidArgument(
            f"input 'pixels' has {len(tensor.data)} bytes, its shape asks for {prod(tensor.shape)}"
        )
    return RawImage(tensor.data, width, height, rgb=True)


def read_options(parameters: Mapping[str, Parameter]) -> Options:
    """The options among a request's parameters. Raises InvalidArgument for others and values out of range."""
    default = Options()
    if unknown := sorted(parameters.keys() - {"min_score", "max_persons", "rotate", BINARY_OUTPUT}):
        raise InvalidArgument(
            f"unknown parameter {unknown[0][:64]!r}: there are min_score, max_persons and rotate"
        )
    min_score = parameters.get("min_score", default.min_score)
    max_persons = parameters.get("max_persons", default.max_persons)
    if isinstance(min_score, bool | str) or not 0 <= min_score <= 1:
        raise InvalidArgument("parameter 'min_score' is not a number in [0, 1]")
    if (
        isinstance(max_persons, bool)
        or not isinstance(max_persons, int)
        or not 1 <= max_persons <= MAX_PERSONS
    ):
        raise InvalidArgument(f"parameter 'max_persons' is not a whole number in 1 to {MAX_PERSONS}")
    rotate = parameters.get("rotate", default.rotate)
    if isinstance(rotate, bool) or rotate not in ROTATIONS:
        raise InvalidArgument("parameter 'rotate' is not one of 0, 90, 180, 270")
    return Options(min_score, max_persons, int(rotate))


def check_outputs(wanted: Sequence[tuple[str, Iterable[str]]]) -> tuple[str, ...]:
    """The outputs that a request names; all where it names none. Raises InvalidArgument.

    wanted: each with the names of its parameters.
    """
    for name, parameters in wanted:
        if name not in OUTPUT_NAMES:
            raise InvalidArgument(f"unknown output {name[:64]!r}: there are {', '.join(OUTPUT_NAMES)}")
        if unknown := sorted(set(parameters) - {BINARY_DATA}):
            raise InvalidArgument(f"output {name!r}: unknown parameter {unknown[0][:64]!r}")
    names = tuple(name for name, _ in wanted)
    if len(set(names)) < len(names):
        raise InvalidArgument("an output is named twice")
    return names or OUTPUT_NAMES


def arrays(poses: Poses) -> dict[str, Floats]:
    """Every output: `boxes` (P, 4), `scores` (P,), `keypoints` (P, 17, 3), in pixels."""
    persons = poses.persons
    return {
        "boxes": np.array([person.bbox for person in persons], "<f4").reshape(-1, 4),
        "scores": np.array([person.score for person in persons], "<f4"),
        "keypoints": np.array([person.keypoints for person in persons], "<f4").reshape(-1, 17, 3),
    }


def packed(elements: Iterable[bytes]) -> bytes:
    """Elements of BYTES as the bytes of a tensor."""
    return b"".join(part for each in elements for part in (len(each).to_bytes(4, "little"), each))


def _only_element(data: bytes) -> bytes:
    if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
        raise InvalidArgument("input 'image' is not one element behind its length in 4 bytes, little endian")
    return data[4:]


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        side == wanted if wanted >= 0 else side > 0 for side, wanted in zip(shape, expected, strict=True)
    )
