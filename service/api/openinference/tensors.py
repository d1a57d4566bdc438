"""The model of the Open Inference Protocol: its tensors are an image and its persons.

Tensors are sent as bytes: row by row, little endian; each element of BYTES follows its length in 4 bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from service.errors import InvalidArgument, NotFound
from service.types import MAX_PERSONS, ROTATIONS, Floats, Options, Picture, Poses, RawImage

MODEL = "lgm-pose"
VERSION = "1"  # of the tensors; the networks have other versions
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data",)
BINARY_DATA, BINARY_OUTPUT = "binary_data", "binary_data_output"  # parameters of outputs and of requests
Parameter: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, type and shape of a tensor; -1 for a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


INPUTS = (TensorMetadata("image", "BYTES", (1,)), TensorMetadata("pixels", "UINT8", (1, -1, -1, 3)))


def outputs(keypoints: int) -> tuple[TensorMetadata, ...]:
    """The outputs, of persons with that number of keypoints."""
    return (
        TensorMetadata("boxes", "FP32", (-1, 4)),
        TensorMetadata("scores", "FP32", (-1,)),
        TensorMetadata("keypoints", "FP32", (-1, keypoints, 3)),
    )


OUTPUT_NAMES = tuple(output.name for output in outputs(0))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request. data: a part of the body, not copied, or bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def check_model(name: str, version: str = "") -> None:
    """Raises NotFound for an unknown model or version; an empty version matches."""
    if name != MODEL:
        raise NotFound(f"there is no model {name[:64]!r}, only {MODEL!r}")
    if version not in ("", VERSION):
        raise NotFound(f"model {MODEL!r} has no version {version[:64]!r}, only {VERSION!r}")


def read_picture(tensors: Sequence[Tensor]) -> Picture:
    """The image of a request: its only tensor, `image` (1,) or `pixels` (1, H, W, 3).

    Raises InvalidArgument.
    """
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
            f"input 'pixels' has {len(tensor.data)} bytes, but its shape needs {prod(tensor.shape)}"
        )
    return RawImage(tensor.data, width, height, rgb=True)


def read_options(parameters: Mapping[str, Parameter]) -> Options:
    """The options from a request's parameters. Raises InvalidArgument for unknown or invalid ones."""
    default = Options()
    if unknown := sorted(parameters.keys() - {"min_score", "max_persons", "rotate", BINARY_OUTPUT}):
        raise InvalidArgument(
            f"unknown parameter {unknown[0][:64]!r}: the parameters are min_score, max_persons and rotate"
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
    """The outputs that a request names, or all if it names none. Raises InvalidArgument.

    wanted: each with the names of its parameters.
    """
    for name, parameters in wanted:
        if name not in OUTPUT_NAMES:
            raise InvalidArgument(f"unknown output {name[:64]!r}: the outputs are {', '.join(OUTPUT_NAMES)}")
        if unknown := sorted(set(parameters) - {BINARY_DATA}):
            raise InvalidArgument(f"output {name!r}: unknown parameter {unknown[0][:64]!r}")
    names = tuple(name for name, _ in wanted)
    if len(set(names)) < len(names):
        raise InvalidArgument("an output is named twice")
    return names or OUTPUT_NAMES


def arrays(poses: Poses, keypoints: int) -> dict[str, Floats]:
    """All outputs float32: `boxes` (P, 4), `scores` (P,), `keypoints` (P, K, 3), in pixels; keypoints: K."""
    persons = poses.persons
    return {
        "boxes": np.array([person.bbox for person in persons], "<f4").reshape(-1, 4),
        "scores": np.array([person.score for person in persons], "<f4"),
        "keypoints": np.array([person.keypoints for person in persons], "<f4").reshape(-1, keypoints, 3),
    }


def packed(elements: Iterable[bytes]) -> bytes:
    """The bytes of a BYTES tensor."""
    return b"".join(part for each in elements for part in (len(each).to_bytes(4, "little"), each))


def _only_element(data: bytes | memoryview) -> bytes:
    if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data) - 4:
        raise InvalidArgument("input 'image' is not one element after its length in 4 bytes, little endian")
    return bytes(memoryview(data)[4:])


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        side == wanted if wanted >= 0 else side > 0 for side, wanted in zip(shape, expected, strict=True)
    )
