"""Metadata of image files: removed before decoding, except the orientation.

A decoder reads texts, colour profiles and EXIF data before the pixels. Some kilobytes of them can take
gigabytes of memory, or time quadratic in their length, so the decoder gets files without them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import ImageTooLarge, InvalidImage

_MAX_CHUNKS = 2**16  # encoders write pixels in chunks of 8 kB; walking a file of empty chunks takes seconds
_PNG_HEAD, _RIFF_HEAD = 8, 12  # bytes before the first chunk
_WEBP_PIXELS = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"))
_EXIF = b"Exif\0\0"
_MAX_EXIF = 2**16  # bytes that are read, as many as a JPEG can hold


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A named part of a file: its start and end, including head and checksum, and its content."""

    name: bytes
    start: int
    end: int
    content: memoryview


def png_without_metadata(data: bytes) -> tuple[bytes, int]:
    """A PNG with only its critical chunks and transparency, and its EXIF orientation.

    An animation becomes its first frame. Raises ImageTooLarge for too many chunks; InvalidImage for a chunk
    that is longer than the file, because a decoder allocates the length that a chunk states.
    """
    view = memoryview(data)  # a slice of bytes would be a copy
    kept, orientation = [view[:_PNG_HEAD]], 1
    for chunk in _chunks(data, ">I4s", _PNG_HEAD):
        if chunk.end > len(data):
            raise InvalidImage("the image is truncated")
        if chunk.name[:1].isupper() or chunk.name == b"tRNS":  # upper case: critical (PNG, section 5.4)
            kept.append(view[chunk.start : chunk.end])
        elif chunk.name == b"eXIf":
            orientation = exif_orientation(bytes(chunk.content[:_MAX_EXIF]))
    return b"".join(kept), orientation


def webp_without_metadata(data: bytes) -> tuple[bytes, int]:
    """A WebP with only its images, and its EXIF orientation. Raises ImageTooLarge for too many chunks."""
    view = memoryview(data)  # a slice of bytes would be a copy
    kept, orientation = [view[8:_RIFF_HEAD]], 1
    (size,) = struct.unpack_from("<I", data, 4)
    for chunk in _chunks(data, "<4sI", _RIFF_HEAD):
        if chunk.name in _WEBP_PIXELS:
            kept.append(view[chunk.start : chunk.end])
        else:
            size -= chunk.end - chunk.start  # not corrected: a truncated file stays truncated
            if chunk.name == b"EXIF":
                orientation = exif_orientation(bytes(chunk.content[:_MAX_EXIF]))
    return b"".join((data[:4], struct.pack("<I", max(0, size)), *kept)), orientation


def exif_orientation(exif: bytes) -> int:
    """Tag 0x0112 of the first directory (TIFF 6.0), 1 to 8; 1 if it is missing or damaged."""
    tiff = exif.removeprefix(_EXIF)
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, offset)
        for entry in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _chunks(data: bytes, head: str, position: int) -> Iterator[_Chunk]:
    """The chunks of a PNG (head `>I4s`, with a checksum) or of a RIFF file (head `<4sI`, padded to even)."""
    view = memoryview(data)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        first, second = struct.unpack_from(head, data, position)
        png = isinstance(first, int)
        name, length = (second, first) if png else (first, second)
        content = position + 8
        end = content + length + (4 if png else length % 2)
        yield _Chunk(name, position, end, view[content : content + length])
        position = end
    raise ImageTooLarge(f"the image has more than {_MAX_CHUNKS} chunks")
