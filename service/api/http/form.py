"""Multipart forms (RFC 7578), by python-multipart."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidArgument, MalformedBody

FIELDS = ("image", "file")
_MAX_PARTS = 1000
_WINDOW = 2**16  # bytes parsed at a time: in between, other threads get the interpreter's lock


def read_form(body: bytes, boundary: bytes) -> list[bytes]:
    """The files of the fields `image` and `file`, in their order.

    Takes time in proportion to the body: call it beside the event loop. Raises MalformedBody for a form that
    is damaged or ends too soon, InvalidArgument for other fields, text, or no file.
    """
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        for start in range(0, len(body), _WINDOW):
            parser.write(body[start : start + _WINDOW])
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise MalformedBody(f"not a valid multipart form: {error}") from error
    if not form.ended:
        raise MalformedBody("the form is truncated: the boundary that closes it is missing")
    if not form.files:
        raise InvalidArgument(f"the form has no field {FIELDS[0]!r}")
    return form.files


class _Form:
    """The parts of a form as the parser finds them."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self.ended = False
        self._parts = 0
        self._name = self._value = b""
        self._disposition = b""
        self._pieces: list[bytes] = []

    def callbacks(self) -> dict[str, object]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._check,
            "on_part_data": lambda data, start, end: self._pieces.append(data[start:end]),
            "on_part_end": lambda: self.files.append(b"".join(self._pieces)),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise MalformedBody(f"the form has more than {_MAX_PARTS} parts")
        self._disposition, self._pieces = b"", []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _check(self) -> None:
        """The part is a file of a known field."""
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise MalformedBody("a part of the form has no name")
        name = options[b"name"].decode(errors="replace")
        if name not in FIELDS:
            raise InvalidArgument(f"unknown form field {name[:64]!r}: images go into {FIELDS[0]!r}")
        if b"filename" not in options:
            raise InvalidArgument(f"the form field {name!r} is text, not a file: give the part a filename")

    def _end(self) -> None:
        self.ended = True
