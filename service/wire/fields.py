"""The fields of an encoded protobuf message, counted before it is parsed.

Millions of empty fields take seconds to parse, and nothing else in the process runs during that time.
"""

from collections.abc import Collection, Iterator

from service.errors import InvalidArgument

_MAX_FIELDS = 64
_MAX_BYTES = 2**20  # of all fields but the payload
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_fields(message: bytes | memoryview, *payload: Collection[int]) -> None:
    """Raises InvalidArgument for a message that is costly to parse: one of many fields, or of large ones.

    payload: the numbers of the fields that may be large, for the message, those fields, and so on inwards.
    Encoding: https://protobuf.dev/programming-guides/encoding/
    """
    if not payload:
        return
    large, *inner = payload
    others = 0
    for count, (number, content) in enumerate(_fields(memoryview(message)), start=1):
        if number in large:
            check_fields(content, *inner)
        else:
            others += len(content)
        if count > _MAX_FIELDS:
            raise InvalidArgument(f"the message has more than {_MAX_FIELDS} fields")
        if others > _MAX_BYTES:
            raise InvalidArgument(f"the fields other than the image have more than {_MAX_BYTES} bytes")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field. Raises InvalidArgument for a damaged message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        start = position
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _BYTES:
            length, start = _varint(message, position)
            position = start + length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:  # groups, which no message here has
            raise InvalidArgument("not a valid message")
        if position > len(message):
            raise InvalidArgument("not a valid message")
        yield key >> 3, message[start:position]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of at most 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise InvalidArgument("not a valid message")
