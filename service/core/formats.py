"""Headers of BMP, GIF and TIFF: the size, and what would cost a decoder more than the pixels do."""

import struct
from collections.abc import Collection, Sequence

from service.errors import ImageTooLarge, InvalidImage

_MAX_BLOCKS = 2**17  # encoders of GIF write blocks of 255 bytes
_MAX_EXTENSIONS = 2**10  # of a GIF before its picture
_MAX_ENTRIES = 512  # of a TIFF directory
_MAX_NUMBERS = 2**18  # under a tag; a strip has at least one row
_MAX_TILE = 2**22  # pixels
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}  # of the numbers that are read here
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIPS, _SAMPLES, _STRIP_BYTES = 256, 257, 258, 259, 273, 277, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
# the tags that a decoder needs: size, samples, colours, strips, tiles and orientation
_PIXEL_TAGS = {
    *range(254, 260),
    262,
    266,
    *range(273, 280),
    284,
    317,
    *range(320, 326),
    332,
    338,
    339,
    *range(529, 533),
}
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate"}


def bmp_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels. Raises struct.error where the header is cut off."""
    (head,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if head == 12 else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height: rows from the top


def gif_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of the screen. Raises struct.error where the header is cut off."""
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def first_gif_frame(data: bytes) -> bytes:
    """The file up to its first picture, which a decoder would otherwise read to its end.

    Raises InvalidImage, and ImageTooLarge for too many blocks.
    """
    position = 13 + _table_bytes(data, 10)
    try:
        for _ in range(_MAX_EXTENSIONS):
            if data[position] != 0x21:
                break
            position = _behind_blocks(data, position + 2)
        if data[position] == 0x21:
            raise ImageTooLarge(f"the GIF has more than {_MAX_EXTENSIONS} extensions")
        if data[position] != 0x2C:
            raise InvalidImage("the GIF has no picture")
        position = _behind_blocks(data, position + 11 + _table_bytes(data, position + 9))
    except IndexError:
        raise InvalidImage("the GIF is truncated") from None
    return data[:position] + b";"


def _table_bytes(data: bytes, flags: int) -> int:
    """The length of a table of colours, by the place of its flags."""
    return 3 << (data[flags] & 7) + 1 if data[flags] & 0x80 else 0


def _behind_blocks(data: bytes, position: int) -> int:
    for _ in range(_MAX_BLOCKS):
        length = data[position]
        position += 1 + length
        if not length:
            return position
    raise ImageTooLarge(f"the GIF has more than {_MAX_BLOCKS} blocks")


def tiff_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of the first picture of a TIFF (revision 6.0).

    Raises InvalidImage for a kind that is not read, ImageTooLarge for tiles larger than a picture needs;
    ValueError, KeyError or struct.error where the directory is damaged.
    """
    directory = _Directory(data)
    width, height = directory.number(_WIDTH), directory.number(_HEIGHT)
    compression = directory.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        names = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise InvalidImage(f"TIFF of compression {compression} is not accepted, only {names}")
    bits, forms = set(directory.numbers(_BITS, (1,))), set(directory.numbers(_SAMPLE_FORMAT, (1,)))
    if not bits <= {1, 2, 4, 8, 16} or forms != {1} or directory.number(_SAMPLES, 1) > 4:
        raise InvalidImage("TIFF is accepted with 1 to 4 samples of 1 to 16 bits, whole numbers")
    tile = directory.number(_TILE_WIDTH, 1) * directory.number(_TILE_HEIGHT, 1)
    if tile > _MAX_TILE:
        raise ImageTooLarge(f"a tile of {tile} pixels is larger than {_MAX_TILE}")
    lengths = directory.numbers(_TILE_BYTES if _TILES in directory.entries else _STRIP_BYTES)
    if sum(lengths) > len(data):  # the same bytes, read again and again
        raise ValueError("strips")
    return width, height


def tiff_without_metadata(data: bytes) -> bytes:
    """The TIFF with the tags of its pixels only; it has no other pictures.

    A decoder would read each other tag, and 512 tags may each be the whole file. Check it with `tiff_size`
    first. Raises ImageTooLarge, ValueError or struct.error.
    """
    return _Directory(data).replaced(_PIXEL_TAGS)


class _Directory:
    """The first directory of a TIFF file."""

    def __init__(self, data: bytes) -> None:
        """Raises ImageTooLarge, ValueError or struct.error."""
        self._data, self._order = data, "<" if data[:2] == b"II" else ">"
        (offset,) = self._unpack("I", 4)
        (count,) = self._unpack("H", offset)
        self._start, self._end = offset, offset + 2 + 12 * count + 4
        if count > _MAX_ENTRIES:
            raise ImageTooLarge(f"the TIFF has more than {_MAX_ENTRIES} entries")
        self.entries: dict[int, tuple[int, int, int]] = {}  # type, count and place by tag
        for place in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, number = self._unpack("HHI", place)
            if tag in self.entries:
                raise ValueError("a tag is there twice")
            self.entries[tag] = kind, number, place + 8

    def number(self, tag: int, default: int | None = None) -> int:
        """The number under a tag. Raises KeyError if there is none and no default."""
        (value,) = self.numbers(tag, None if default is None else (default,))
        return value

    def numbers(self, tag: int, default: Sequence[int] | None = None) -> Sequence[int]:
        """The numbers under a tag. Raises KeyError if there are none and no default."""
        if tag not in self.entries and default is not None:
            return default
        kind, count, place = self.entries[tag]
        form = f"{count}{_TIFF_TYPES[kind]}"
        if count > len(self._data):
            raise ValueError(tag)
        if count > _MAX_NUMBERS:
            raise ImageTooLarge(f"the TIFF has more than {_MAX_NUMBERS} numbers under a tag")
        if struct.calcsize("=" + form) > 4:
            (place,) = self._unpack("I", place)
        return self._unpack(form, place)

    def replaced(self, tags: Collection[int]) -> bytes:
        """The file with only these tags in its first directory, and without further ones.

        Raises ImageTooLarge for more than _MAX_NUMBERS numbers under one of them.
        """
        kept = sorted((place - 8, number) for tag, (_, number, place) in self.entries.items() if tag in tags)
        if any(number > _MAX_NUMBERS for _, number in kept):
            raise ImageTooLarge(f"the TIFF has more than {_MAX_NUMBERS} numbers under a tag")
        directory = struct.pack(self._order + "H", len(kept))
        directory += b"".join(self._data[start : start + 12] for start, _ in kept)
        length = self._end - self._start
        return self._data[: self._start] + directory.ljust(length, b"\0") + self._data[self._end :]

    def _unpack(self, form: str, place: int) -> Sequence[int]:
        return struct.unpack_from(self._order + form, self._data, place)
