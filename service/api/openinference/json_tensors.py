"""The JSON of the Open Inference Protocol, and the binary tensors that follow it."""

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from service.api.openinference.tensors import (
    BINARY_DATA,
    BINARY_OUTPUT,
    INPUTS,
    MODEL,
    OUTPUT_NAMES,
    VERSION,
    Parameter,
    Tensor,
    packed,
)
from service.errors import ImageTooLarge, InvalidArgument, MalformedBody
from service.types import Floats

LENGTH_HEADER = "inference-header-content-length"
_MAX_JSON = 8 * 2**20  # bytes; parsed JSON takes many times as much memory
# parsing holds the interpreter's lock, which the event loop needs: 2 ms for each MiB of text (3 ms if it is
# not valid), 5 ms for each MiB of numbers, 10 ms for 2^15 lists
_MAX_NUMBERS = 2 * 2**20  # bytes of JSON with numbers
_MAX_ELEMENTS = 2**18
_MAX_LISTS = 2**15
_MAX_NODES = 256
_WINDOW = 2**16  # characters of base64 decoded at a time
_SIZE = "binary_data_size"
Parameters = Annotated[dict[str, Parameter], Field(default_factory=dict)]


_DATA = {
    "type": "array",
    "items": {
        "anyOf": [
            {"type": "string", "format": "byte"},
            {"type": "integer", "minimum": 0, "maximum": 255},
            {"type": "array", "items": {}},
        ]
    },
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InferInput(_Strict):
    """A tensor: its elements are in `data`, nested or flat, BYTES in base64; or they follow the JSON."""

    name: Annotated[str, Field(json_schema_extra={"enum": [each.name for each in INPUTS]})]
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: Annotated[str, Field(json_schema_extra={"enum": [each.datatype for each in INPUTS]})]
    parameters: Parameters
    data: Annotated[list[Any] | None, WithJsonSchema(_DATA)] = None


class InferOutput(_Strict):
    """A requested output; with the parameter `binary_data` it follows the JSON."""

    name: Annotated[str, Field(json_schema_extra={"enum": list(OUTPUT_NAMES)})]
    parameters: Parameters


class InferRequest(_Strict):
    """A request; its parameters are `min_score`, `max_persons`, `rotate` and `binary_data_output`."""

    id: str = ""
    parameters: Parameters
    inputs: Annotated[list[InferInput], Field(json_schema_extra={"minItems": 1, "maxItems": 1})]
    outputs: Annotated[
        list[InferOutput], Field(default_factory=list, json_schema_extra={"uniqueItems": True})
    ]


@dataclass(frozen=True, slots=True)
class InferredTensor:
    """An output: its elements are in `data`, or follow the JSON as `binary_data_size` bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The persons of an image as tensors; `id` is that of the request."""

    model_name: str
    model_version: str
    outputs: list[InferredTensor]
    id: str | None = None


def read_request(body: bytes, json_length: str | None) -> tuple[InferRequest, list[Tensor]]:
    """A request and its tensors: `image` BYTES (1,) or `pixels` UINT8 (1, H, W, 3).

    json_length: the value of the header with the length of the JSON.

    Raises ImageTooLarge, MalformedBody or InvalidArgument.
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    if length > _MAX_JSON:
        raise ImageTooLarge(f"the JSON is larger than {_MAX_JSON} bytes: send tensors as binary data")
    elements = body.count(b",", 0, length)
    if elements > _MAX_ELEMENTS:
        raise ImageTooLarge(f"the JSON has more than {_MAX_ELEMENTS} elements: send tensors as binary data")
    if elements > _MAX_NODES and length > _MAX_NUMBERS:
        raise ImageTooLarge(f"JSON with numbers is larger than {_MAX_NUMBERS} bytes: send binary data")
    if body.count(b"[", 0, length) + body.count(b"{", 0, length) > _MAX_LISTS:
        raise ImageTooLarge(f"the JSON has more than {_MAX_LISTS} lists: send flat lists, or binary data")
    if body.count(b":", 0, length) > _MAX_NODES:
        raise _too_many_values()
    try:
        document = orjson.loads(memoryview(body)[:length])
        _check_nodes(document)
        request = InferRequest.model_validate(document)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"{place[:200]}: {first['msg']}") from None
    return request, _tensors(request.inputs, memoryview(body)[length:])


def _check_nodes(document: object) -> None:
    """Raises InvalidArgument for a document of many values outside `data`: each could be a fault to list."""
    nodes, left = [document], _MAX_NODES
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            children = [value for name, value in node.items() if name != "data"]
        else:
            children = node if isinstance(node, list) else []
        left -= len(children)
        if left < 0:
            raise _too_many_values()
        nodes += children


def binary_outputs(request: InferRequest) -> set[str]:
    """The outputs that are to follow the JSON."""
    default = request.parameters.get(BINARY_OUTPUT, False)
    chosen = {each.name: each.parameters.get(BINARY_DATA, default) for each in request.outputs}
    return {name for name in OUTPUT_NAMES if chosen.get(name, default) is True}


def write_answer(ident: str, arrays: dict[str, Floats], binary: set[str]) -> tuple[bytes, int]:
    """The body of an answer, and the length of its JSON.

    arrays: float32 outputs: `boxes` (P, 4), `scores` (P,), `keypoints` (P, 17, 3). binary: outputs after
    the JSON.
    """
    outputs, tail = [], []
    for name in OUTPUT_NAMES:
        if (array := arrays.get(name)) is None:
            continue
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        if name in binary:
            tail.append(array.tobytes())
            tensor["parameters"] = {_SIZE: array.nbytes}
        else:
            tensor["data"] = array.ravel()
        outputs.append(tensor)
    answer = {"model_name": MODEL, "model_version": VERSION, **({"id": ident} if ident else {})}
    text = orjson.dumps({**answer, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((text, *tail)), len(text)


def _length(header: str, size: int) -> int:
    if not (header.isascii() and header.isdigit() and len(header) < 12 and int(header) <= size):
        raise MalformedBody(f"{LENGTH_HEADER} is not a length within the body")
    return int(header)


def _tensors(inputs: Sequence[InferInput], tail: memoryview) -> list[Tensor]:
    tensors, position = [], 0
    for each in inputs:
        data: bytes | memoryview
        size = each.parameters.get(_SIZE)
        if size is None:
            data = _bytes_of(each)
        elif isinstance(size, bool) or not isinstance(size, int) or size < 0 or each.data is not None:
            raise InvalidArgument(f"input {each.name[:64]!r}: {_SIZE} must be a length, without `data`")
        else:
            data, position = tail[position : position + size], position + size
        tensors.append(Tensor(each.name, each.datatype, tuple(each.shape), data))
    if position != len(tail):
        raise MalformedBody(f"{len(tail)} bytes follow the JSON, but it announces {position}")
    return tensors


def _bytes_of(tensor: InferInput) -> bytes:
    """The elements of `data` as bytes. Raises InvalidArgument."""
    elements = tensor.data or []
    for _ in tensor.shape[1:]:
        if elements and isinstance(elements[0], list):
            try:
                elements = list(chain.from_iterable(elements))
            except TypeError:
                raise InvalidArgument(f"input {tensor.name[:64]!r}: it mixes lists and elements") from None
    try:
        if tensor.datatype == "BYTES":
            return packed(map(_decoded, elements))
        return bytes(elements)
    except (TypeError, ValueError):
        kind = "base64" if tensor.datatype == "BYTES" else "8-bit unsigned integers"
        raise InvalidArgument(f"input {tensor.name[:64]!r}: its data is not {kind}") from None


def _too_many_values() -> InvalidArgument:
    return InvalidArgument(f"the JSON has more than {_MAX_NODES} values outside `data`")


def _decoded(text: str) -> bytes:
    """Base64 decoded. Raises ValueError or TypeError."""
    if "=" in text[:-2]:
        raise ValueError("padding before the end")
    pieces = (text[start : start + _WINDOW] for start in range(0, len(text), _WINDOW))
    return b"".join(b64decode(piece, validate=True) for piece in pieces)
