"""Bodies and messages that are made to cost the service much; each grows to any size."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from service.api.openinference.json_tensors import LENGTH_HEADER

Grow = Callable[[int], bytes]
_INFER = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1,1,1,3],"data":%s}],"outputs":[%s]}'
_IMAGE = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["%s"]}]}'
_BOUNDARY = b"b" * 40
_PART = b"--" + _BOUNDARY + b'\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'


@dataclass(frozen=True)
class Body:
    """A kind of body for a POST request."""

    name: str
    path: str
    content_type: str
    grow: Grow
    json_length: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those that describe the body."""
        length = {} if self.json_length is None else {LENGTH_HEADER: self.json_length}
        return {"content-type": self.content_type, **length}


_INFER_PATH = "/v2/models/lgm-pose/infer"
_TENSOR = (
    b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%10d}}]}'
)


def _json(name: str, grow: Grow) -> Body:
    return Body(f"json of {name}", _INFER_PATH, "application/json", grow)


def _tensor(size: int) -> bytes:
    return _TENSOR % (size + 4) + size.to_bytes(4, "little") + b"\0" * size


def _form(name: str, grow: Grow) -> Body:
    return Body(f"form of {name}", "/v1/poses", f"multipart/form-data; boundary={_BOUNDARY.decode()}", grow)


BODIES = (
    _json("pixels", lambda size: _INFER % (b"[" + b",".join([b"200"] * (size // 4)) + b"]", b"")),
    _json("wrong outputs", lambda size: _INFER % (b"[]", b",".join([b"{}"] * (size // 3)))),
    _json("wrong inputs", lambda size: b'{"inputs":[' + b",".join([b"1"] * (size // 2)) + b"]}"),
    _json("unknown keys", lambda size: b"{" + b",".join(b'"%d":1' % n for n in range(size // 12)) + b"}"),
    _json("one string", lambda size: b'{"inputs":[],"id":"' + b"a" * size + b'"}'),
    _json("nesting", lambda size: _INFER % (b"[" * (size // 2) + b"]" * (size // 2), b"")),
    _json("lists", lambda size: _INFER % (b"[" + b",".join([b"[]"] * (size // 3)) + b"]", b"")),
    _json("objects", lambda size: _INFER % (b"[" + b",".join([b"{}"] * (size // 3)) + b"]", b"")),
    _json(
        "fractions", lambda size: _INFER % (b"[" + b",".join([b"0." + b"1" * 28] * (size // 31)) + b"]", b"")
    ),
    _json("blanks", lambda size: b" " * size + b"{}"),
    _json("base64", lambda size: _IMAGE % (b"A" * (size // 4 * 4))),
    Body("a tensor", _INFER_PATH, "application/octet-stream", _tensor, str(len(_TENSOR % 0))),
    _form("line breaks", lambda size: _PART + b"\r\n" * (size // 2)),
    _form("almost boundaries", lambda size: _PART + (b"\r\n--" + _BOUNDARY[:-1]) * (size // 43)),
    _form("empty parts", lambda size: (_PART + b"\r\n") * (size // len(_PART))),
    _form("headers", lambda size: b"--" + _BOUNDARY + b"\r\n" + b"x: y\r\n" * (size // 6)),
)


def heads() -> list[httpx.Request]:
    """Requests whose heads are as large as they may be."""
    url = "http://x/v1/poses"
    return [
        httpx.Request("POST", url, headers={"content-type": "image/jpeg" + ";" * 60_000}, content=b"x"),
        httpx.Request("POST", url + "?" + "&".join(["a="] * 20_000), content=b"x"),
        httpx.Request("GET", "http://x/metrics", headers={"accept": "text/plain," * 5_000}),
    ]


# the first message of a stream over WebSocket
CONFIGS: dict[str, Callable[[int], str]] = {
    "config of unknown keys": lambda size: (
        "{" + ",".join(f'"{number}":1' for number in range(size // 12)) + "}"
    ),
    "config of lists": lambda size: '{"camera_id":[' + ",".join(["[]"] * (size // 3)) + "]}",
    "config of one string": lambda size: '{"camera_id":"' + "a" * size + '"}',
}
# messages of gRPC: kind and how it grows
MESSAGES: dict[str, Grow] = {
    "EstimateRequest of unknown fields": lambda size: b"\xf8\x01\x01" * (size // 3),
    "EstimateRequest of options": lambda size: b"\x12\x00" * (size // 2),
    "ModelInferRequest of outputs": lambda size: b"\x32\x00" * (size // 2),
    "ModelInferRequest of numbers": lambda size: b"\x2a" + _delimited(b"\x2a" + _delimited(b"\x01" * size)),
    "EstimateStreamRequest of unknown fields": lambda size: (
        b"\x12" + _delimited(b"\xf8\x01\x01" * (size // 3))
    ),
}


def _delimited(content: bytes) -> bytes:
    """Content behind its length as a varint."""
    length, prefix = len(content), bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*prefix, length)) + content
