"""Costly TIFF, GIF, BMP, AVIF and HEIC files; each grows to any size. Those of other formats: `hostile`."""

import struct
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

Hostile = Callable[[int], bytes]  # from a size in bytes to about as many bytes
_SHORT, _LONG, _ASCII = 3, 4, 2


@cache
def _encoded(suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, np.full((64, 64, 3), 90, np.uint8))
    assert done
    return data.tobytes()


def _tiff(
    *entries: tuple[int, int, int, int], tail: bytes = b"", following: int = 0, side: int = 64
) -> bytes:
    """A TIFF of grey pixels, with further entries (tag, type, count, value) and bytes behind its strip."""
    strip = 8
    places = strip + 64 * 64
    known = [
        (256, _SHORT, 1, side), (257, _LONG, 1, side), (258, _SHORT, 1, 8), (259, _SHORT, 1, 1),
        (262, _SHORT, 1, 1), (273, _LONG, 1, strip), (277, _SHORT, 1, 1), (278, _SHORT, 1, 64),
        (279, _LONG, 1, 64 * 64),
    ]  # fmt: skip
    found = sorted({entry[0]: entry for entry in (*known, *entries)}.values())
    directory = places + len(tail)
    return b"".join((
        b"II*\0", struct.pack("<I", directory), b"\x40" * (64 * 64), tail,
        struct.pack("<H", len(found)), *(struct.pack("<HHII", *entry) for entry in found),
        struct.pack("<I", following),
    ))  # fmt: skip


_TAIL = 8 + 64 * 64  # the place of a TIFF's tail


def tiff_texts(size: int) -> bytes:
    """A TIFF whose unknown tags are texts, each as long as all of it."""
    entries = [(40_000 + number, _ASCII, size, _TAIL) for number in range(450)]
    return _tiff(*entries, tail=b"a" * size)


def tiff_numbers(size: int) -> bytes:
    """A TIFF whose unknown tags are numbers, all of them the same ones."""
    entries = [(40_000 + number, _SHORT, size // 2, _TAIL) for number in range(450)]
    return _tiff(*entries, tail=b"a" * size)


def tiff_strips(size: int) -> bytes:
    """A TIFF of strips without bytes."""
    count = size // 8
    return _tiff(
        (278, _LONG, 1, 1), (273, _LONG, count, _TAIL), (279, _LONG, count, _TAIL + 4 * count),
        tail=b"\0" * (8 * count),
    )  # fmt: skip


def tiff_samples(size: int) -> bytes:
    """A TIFF with the number of bits of millions of samples."""
    return _tiff((258, _SHORT, size // 2, _TAIL), tail=b"\1\0" * (size // 2))


def tiff_cycle(size: int) -> bytes:
    """A TIFF whose first directory is its own next one."""
    tail = b"\0" * size
    return _tiff(tail=tail, following=_TAIL + len(tail))


def tiff_giant(size: int) -> bytes:
    """A TIFF that announces 65,000 x 65,000 pixels."""
    return _tiff(tail=b"\0" * size, side=65_000)


def tiff_truncated(size: int) -> bytes:
    """A TIFF without its directory."""
    return _tiff(tail=b"\0" * size)[:-120]


def gif_blocks(size: int) -> bytes:
    """A GIF with a comment of blocks of one byte."""
    gif = _encoded(".gif")
    start = _behind_table(gif)
    return gif[:start] + b"\x21\xfe" + b"\1a" * (size // 2) + b"\0" + gif[start:]


def gif_extensions(size: int) -> bytes:
    """A GIF of comments without text."""
    gif = _encoded(".gif")
    start = _behind_table(gif)
    return gif[:start] + b"\x21\xfe\0" * (size // 3) + gif[start:]


def gif_truncated(size: int) -> bytes:
    """A GIF whose comment has no end."""
    gif = _encoded(".gif")
    return gif[: _behind_table(gif)] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * (size // 256)


def _behind_table(gif: bytes) -> int:
    return 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0)


def bmp_deltas(size: int) -> bytes:
    """A BMP in run-length code that moves by nothing again and again."""
    return _bmp(b"\0\2\0\0" * (size // 4), 64)


def bmp_giant(size: int) -> bytes:
    """A BMP that announces 2^30 x 2^30 pixels."""
    return _bmp(b"\0" * size, 2**30)


def _bmp(code: bytes, side: int) -> bytes:
    """A BMP of 8 bits in run-length code."""
    palette = bytes(1024)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(code), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(code), 0, 0, start) + header + palette + code


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _isobmff(
    locations: bytes,
    *,
    kind: bytes = b"av01",
    items: int = 1,
    associations: bytes = struct.pack(">IHBB", 1, 1, 1, 1),
    properties: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """A file of items of one kind. locations, associations: the content of `iloc` and `ipma`."""
    brand = b"avif" if kind == b"av01" else b"heic"
    size = _box(b"ispe", struct.pack(">III", 0, 64, 64))
    entries = [
        _box(b"infe", struct.pack(">IHH4s", 2 << 24, number, 0, kind), b"\0")
        for number in range(1, items + 1)
    ]
    meta = _box(
        b"meta", bytes(4),
        _box(b"pitm", struct.pack(">IH", 0, 1)),
        _box(b"iinf", struct.pack(">IH", 0, items), *entries),
        _box(b"iloc", locations),
        _box(b"iprp", _box(b"ipco", size, properties), _box(b"ipma", bytes(4), associations)),
    )  # fmt: skip
    return _box(b"ftyp", brand, bytes(4), brand, b"mif1") + meta + _box(b"mdat", tail)


def _locations(*extents: tuple[int, int]) -> bytes:
    """Each item with one extent: start and length in the file."""
    each = (struct.pack(">HHHII", number, 0, 1, *extent) for number, extent in enumerate(extents, start=1))
    return struct.pack(">IHH", 0, 0x4400, len(extents)) + b"".join(each)


def avif_extents(size: int) -> bytes:
    """An AVIF of items with 65,535 extents, each of which takes no byte to list."""
    count = min(65_535, size // 6)
    return _isobmff(struct.pack(">IHH", 0, 0, count) + struct.pack(">HHH", 1, 0, 65_535) * count)


def avif_shared(size: int) -> bytes:
    """An AVIF of thousands of items, each of which is all of its bytes."""
    items, avif = min(4000, size // 64), _encoded(".avif")
    picture = avif[avif.index(b"mdat") + 4 :]
    # padding: its kind is 15, its length has 7 bits a byte
    length = bytes(size >> 7 * place & 127 | (128 if place < 3 else 0) for place in range(4))
    tail = picture + b"\x7a" + length + b"\0" * size
    head = len(_isobmff(_locations(*[(0, 0)] * items), items=items))
    return _isobmff(_locations(*[(head, len(tail))] * items), items=items, tail=tail)


def avif_associations(size: int) -> bytes:
    """An AVIF with millions of properties of its picture."""
    one = struct.pack(">HB", 1, 255) + b"\1" * 255
    count = size // len(one)
    return _isobmff(_locations((0, 64)), associations=struct.pack(">I", count) + one * count)


def avif_boxes(size: int) -> bytes:
    """An AVIF of empty boxes."""
    return _isobmff(_locations((0, 64))) + _box(b"free") * (size // 8)


def avif_nested(size: int) -> bytes:
    """An AVIF of boxes inside boxes, as many as fit."""
    inner = b""
    depth = min(size // 8, 2**16)
    heads = [struct.pack(">I4s", 8 * (depth - level), b"meta") for level in range(depth)]
    return _box(b"ftyp", b"avif", bytes(4), b"avif") + b"".join(heads) + inner.ljust(size - 8 * depth, b"\0")


def avif_units(size: int) -> bytes:
    """An AVIF whose picture is of empty units."""
    tail = b"\x12\0" * (size // 2)
    head = len(_isobmff(_locations((0, 0))))
    return _isobmff(_locations((head, len(tail))), tail=tail)


def avif_truncated(size: int) -> bytes:
    """An AVIF whose last box is longer than the file."""
    return avif_units(size)[:-100]


def heic_parameters(size: int) -> bytes:
    """A HEIC with parameter sets of zeros, as long as they can be."""
    length = min(size, 65_535)
    one = struct.pack(">H", length) + b"\x42\1" + b"\0" * (length - 2)
    config = (
        bytes(22) + b"\1\x21" + struct.pack(">H", max(1, size // len(one))) + one * max(1, size // len(one))
    )
    properties = _box(b"hvcC", config)
    return _isobmff(
        _locations((0, 64)),
        kind=b"hvc1",
        properties=properties,
        associations=struct.pack(">IHBBB", 1, 1, 2, 1, 2),
    )


FILES: tuple[Hostile, ...] = (
    tiff_texts,
    tiff_numbers,
    tiff_strips,
    tiff_samples,
    tiff_cycle,
    tiff_giant,
    tiff_truncated,
    gif_blocks,
    gif_extensions,
    gif_truncated,
    bmp_deltas,
    bmp_giant,
    avif_extents,
    avif_shared,
    avif_associations,
    avif_boxes,
    avif_nested,
    avif_units,
    avif_truncated,
    heic_parameters,
)
