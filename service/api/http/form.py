"""Reads multipart forms (RFC 7578) with python-multipart."""

from collections.abc import Callable
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidArgument, MalformedBody, UnsupportedMediaType

_MAX_PARTS = 1000
_MAX_CONTENT_TYPE = 256  # characters; a boundary has at most 70


class File(Protocol):
    """The destination of a part."""

    def write(self, data: bytes, /) -> object:
        """Append."""


class FormReader:
    """Reads a form of files piece by piece, in linear time.

    fields: allowed names of parts. new_file: opens the destination of a part.
    """

    def __init__(self, boundary: bytes, fields: tuple[str, ...], new_file: Callable[[], File]) -> None:
        """Raises MalformedBody for an invalid boundary."""
        self.files: list[File] = []
        self._fields, self._new_file = fields, new_file
        self._ended = False
        self._name = self._value = self._disposition = b""
        callbacks: dict[str, Any] = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": lambda data, start, end: self.files[-1].write(data[start:end]),
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _damaged(error) from error

    def write(self, data: bytes) -> None:
        """Read the next piece. Raises MalformedBody, or InvalidArgument for an unknown field or for text."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _damaged(error) from error

    def close(self) -> None:
        """Check that the form is complete. Raises MalformedBody, or InvalidArgument without a file."""
        if not self._ended:
            raise MalformedBody("the form is truncated: the boundary that closes it is missing")
        if not self.files:
            raise InvalidArgument(f"the form has no field {self._fields[0]!r}")

    def _begin(self) -> None:
        if len(self.files) == _MAX_PARTS:
            raise MalformedBody(f"the form has more than {_MAX_PARTS} parts")
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _open(self) -> None:
        """Open a file for a part, which must be a file of a known field."""
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise MalformedBody("a part of the form has no name")
        name, field = options[b"name"].decode(errors="replace"), self._fields[0]
        if name not in self._fields:
            raise InvalidArgument(f"unknown form field {name[:64]!r}: the file goes into {field!r}")
        if b"filename" not in options:
            raise InvalidArgument(f"the form field {name!r} is text, not a file: give the part a filename")
        self.files.append(self._new_file())

    def _end(self) -> None:
        self._ended = True


def form_boundary(content_type: str, kind: str, fields: tuple[str, ...]) -> bytes | None:
    """The boundary of a form; None if the body is the file itself, of type `kind`/*.

    Raises MalformedBody for a form without a boundary, UnsupportedMediaType for other types.
    """
    # limit the length: the parser takes half a second for 64 kB of semicolons
    media_type, options = parse_options_header(content_type[:_MAX_CONTENT_TYPE])
    if media_type == b"multipart/form-data":
        if not (boundary := options.get(b"boundary")):
            raise MalformedBody("not a valid multipart form: its content type has no boundary")
        return boundary
    if media_type.startswith(kind.encode() + b"/") or media_type == b"application/octet-stream":
        return None
    given = media_type.decode(errors="replace")[:64] or "none"
    raise UnsupportedMediaType(
        f"content type {given!r} is not accepted: send the bytes of the file as {kind}/* or"
        f" application/octet-stream, or in the field {fields[0]!r} of multipart/form-data;"
        " base64 is not decoded here"
    )


def _damaged(error: Exception) -> MalformedBody:
    return MalformedBody(f"not a valid multipart form: {error}")
