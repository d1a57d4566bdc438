"""The boxes of AVIF and HEIC files (ISO/IEC 14496-12, 23008-12): size and orientation of their pictures.

An item's properties say its size, but the decoder follows the header of the coded picture inside the item.
Both are read here, so that neither can be larger than is allowed.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from service.core.bits import Bits
from service.errors import InvalidImage

_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_MAX_BOXES = 2**12  # a picture of many tiles has some hundreds
_MAX_PICTURES = 8  # in one item: layers
_MAX_PARAMETERS = 16  # sets of HEVC; a picture has one
_MAX_HEADER = 256  # bytes of a picture's header that are read
_PRIMARY = {b"av01", b"hvc1", b"grid"}
# EXIF orientations after a turn by 90 degrees counter-clockwise, and after an exchange of top and bottom
# (first) or of left and right
_TURNED = {1: 8, 8: 3, 3: 6, 6: 1, 2: 5, 5: 4, 4: 7, 7: 2}
_MIRRORED = (
    {1: 4, 4: 1, 2: 3, 3: 2, 5: 8, 8: 5, 6: 7, 7: 6},
    {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 8, 8: 7},
)
_OBU_SEQUENCE_HEADER, _OBU_FRAMES = 1, (3, 6)
_NAL_SPS, _NAL_PICTURES = 33, range(32)


@dataclass(slots=True)
class _Item:
    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)  # in the file, or in `idat`
    in_idat: bool = False
    properties: list[bytes] = field(default_factory=list)  # kind and content of each
    tiles: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Still:
    """The primary picture of a file: its size as stored, and the EXIF orientation that its properties mean.

    decoded: the most pixels that any picture in the file costs the decoder, in all its tiles.
    """

    width: int
    height: int
    orientation: int
    decoded: int


def isobmff_kind(data: bytes) -> Literal["avif", "heic", ""]:
    """What a file says that it is; empty for another kind of data."""
    if data[4:8] != b"ftyp" or data[8:12] not in _BRANDS:
        return ""
    brands = data[8 : min(256, int.from_bytes(data[:4]))]
    return "avif" if b"avif" in brands or b"avis" in brands else "heic"


def read_still(data: bytes) -> Still:
    """Raises InvalidImage; ValueError, KeyError, IndexError or struct.error where the boxes are damaged."""
    top = {kind: (start, end) for kind, start, end in _boxes(data, 0, len(data))}
    if b"moov" in top:
        raise InvalidImage("a sequence of pictures in AVIF or HEIC is not accepted, only a still picture")
    start, end = top[b"meta"]
    boxes = {kind: (begin, stop) for kind, begin, stop in _boxes(data, start + 4, end)}
    items = _items(data, boxes)
    primary = items[_primary(data, *boxes[b"pitm"])]
    if primary.kind not in _PRIMARY:
        raise InvalidImage("only a picture in AV1 or HEVC is accepted in an AVIF or HEIC file")
    idat = boxes.get(b"idat", (0, 0))
    if sum(length for item in items.values() for _, length in item.extents) > len(data):
        raise ValueError("the same bytes, read again and again")
    pixels = {
        number: _coded_pixels(_content(data, item, idat), item)
        for number, item in items.items()
        if item.kind in _PRIMARY
    }
    tiled = [sum(pixels[tile] for tile in item.tiles) for item in items.values()]
    width, height, orientation = 0, 0, 1
    for each in primary.properties:
        kind, content = each[:4], each[4:]
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", content, 4)
        elif kind == b"irot":
            for _ in range(content[0] & 3):
                orientation = _TURNED[orientation]
        elif kind == b"imir":
            orientation = _MIRRORED[content[0] & 1][orientation]
    return Still(width, height, orientation, max(*pixels.values(), *tiled))


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, and where its content starts and ends."""
    for _ in range(_MAX_BOXES):
        if start >= end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        stop = end if size == 0 else start + size
        if not start + head <= stop <= end:
            raise ValueError(kind)
        yield kind, start + head, stop
        start = stop
    raise InvalidImage(f"the file has more than {_MAX_BOXES} boxes in one")


def _primary(data: bytes, start: int, end: int) -> int:
    number: int = struct.unpack_from(">I" if data[start] else ">H", data, start + 4)[0]
    return number


def _items(data: bytes, boxes: dict[bytes, tuple[int, int]]) -> dict[int, _Item]:
    items: dict[int, _Item] = {}
    start, end = boxes[b"iinf"]
    head = 6 if data[start] == 0 else 8
    for kind, begin, _ in _boxes(data, start + head, end):
        if kind == b"infe" and data[begin] >= 2:
            form = ">I" if data[begin] == 3 else ">H"
            (number,) = struct.unpack_from(form, data, begin + 4)
            place = begin + 4 + struct.calcsize(form) + 2
            items[number] = _Item(data[place : place + 4])
    _read_locations(data, *boxes[b"iloc"], items)
    _read_properties(data, *boxes[b"iprp"], items)
    if b"iref" in boxes:
        _read_tiles(data, *boxes[b"iref"], items)
    return items


def _read_locations(data: bytes, start: int, end: int, items: dict[int, _Item]) -> None:
    version = data[start]
    sizes = struct.unpack_from(">H", data, start + 4)[0]
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    position = start + 6

    def take(count: int) -> int:
        nonlocal position
        if position + count > end:
            raise ValueError("iloc")
        value = int.from_bytes(data[position : position + count])
        position += count
        return value

    extents = 0
    for _ in range(_limited(take(2 if version < 2 else 4))):
        item = items.get(take(2 if version < 2 else 4), _Item())
        method = take(2) & 15 if version else 0
        take(2)  # of another file
        base = take(base_size)
        item.in_idat = method == 1
        count = take(2)
        extents = _limited(extents + count)  # one without offset and length takes no byte
        for _ in range(count):
            take(index_size)
            offset = base + take(offset_size)
            item.extents.append((offset, take(length_size)))
        if method > 1:
            raise InvalidImage("pictures that are made of parts of others are not accepted")


def _read_properties(data: bytes, start: int, end: int, items: dict[int, _Item]) -> None:
    inner = [(kind, begin, stop) for kind, begin, stop in _boxes(data, start, end)]
    ((_, begin, stop),) = [each for each in inner if each[0] == b"ipco"]
    known = [kind + data[first:last] for kind, first, last in _boxes(data, begin, stop)]
    for kind, first, last in inner:
        if kind != b"ipma":
            continue
        version, wide = data[first], data[first + 3] & 1
        (count,) = struct.unpack_from(">I", data, first + 4)
        position = first + 8
        for _ in range(_limited(count)):
            if position >= last:
                raise ValueError("ipma")
            number = int.from_bytes(data[position : position + (4 if version else 2)])
            position += 4 if version else 2
            length = data[position]
            position += 1
            for _ in range(length):
                index = int.from_bytes(data[position : position + 1 + wide]) & (0x7FFF if wide else 0x7F)
                position += 1 + wide
                if index and number in items:
                    items[number].properties.append(known[index - 1])


def _limited(count: int) -> int:
    """The count. Raises InvalidImage for too many."""
    if count > _MAX_BOXES:
        raise InvalidImage(f"the file has more than {_MAX_BOXES} items, or parts of them")
    return count


def _read_tiles(data: bytes, start: int, end: int, items: dict[int, _Item]) -> None:
    form = "I" if data[start] else "H"
    for kind, begin, stop in _boxes(data, start + 4, end):
        (number,) = struct.unpack_from(f">{form}", data, begin)
        begin += struct.calcsize(form)
        (count,) = struct.unpack_from(">H", data, begin)
        if kind == b"dimg" and number in items and items[number].kind == b"grid":
            items[number].tiles += struct.unpack(f">{count}{form}", data[begin + 2 : stop])


def _content(data: bytes, item: _Item, idat: tuple[int, int]) -> bytes:
    start, end = idat if item.in_idat else (0, len(data))
    if sum(length for _, length in item.extents) > end - start:
        raise ValueError("extents")
    return b"".join(
        data[start + offset : min(end, start + offset + length)] for offset, length in item.extents
    )


def _coded_pixels(content: bytes, item: _Item) -> int:
    """Pixels of a coded picture, or of the canvas of a grid, as its own headers say."""
    if item.kind == b"grid":
        width, height = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
        return int(width * height)
    if item.kind == b"av01":
        return max(_av1_pixels(payload) for payload in _sequence_headers(content))
    (config,) = [each[4:] for each in item.properties if each[:4] == b"hvcC"]
    _check_units(content, (config[21] & 3) + 1)
    return max(_hevc_pixels(payload) for payload in _parameter_sets(config))


def _sequence_headers(content: bytes) -> Iterator[bytes]:
    """The payloads of AV1's sequence headers (AV1 specification, 5.3)."""
    position = frames = 0
    for _ in range(_MAX_BOXES):
        if position >= len(content):
            return
        head = content[position]
        frames += head >> 3 & 15 in _OBU_FRAMES
        if frames > _MAX_PICTURES:
            raise InvalidImage(f"an item of more than {_MAX_PICTURES} pictures is not accepted")
        position += 2 if head & 4 else 1
        size = len(content) - position
        if head & 2:
            size, shift = 0, 0
            for shift in range(0, 56, 7):
                byte = content[position]
                position += 1
                size |= (byte & 127) << shift
                if byte < 128:
                    break
        if head >> 3 & 15 == _OBU_SEQUENCE_HEADER:
            yield content[position : position + min(size, _MAX_HEADER)]
        position += size
    raise InvalidImage(f"a picture of more than {_MAX_BOXES} parts is not accepted")


def _av1_pixels(header: bytes) -> int:
    """The most pixels of a frame under a sequence header (AV1 specification, 5.5)."""
    bits = Bits(header)
    bits.take(4)
    reduced = bits.take(1)
    if reduced:
        bits.take(5)
    else:
        if bits.take(1):
            raise InvalidImage("an AVIF picture with timing is not accepted")
        delays = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delays and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    # without the reduced header each frame may have a size of its own, of as many bits
    return width * height if reduced else max(width * height, (1 << width_bits + height_bits) // 4)


def _check_units(content: bytes, length_size: int) -> None:
    """Raises InvalidImage if the units of HEVC, each behind its length, are more than a picture."""
    position = pictures = 0
    for _ in range(_MAX_BOXES):
        if position + length_size + 2 >= len(content):
            return
        size = int.from_bytes(content[position : position + length_size])
        position += length_size
        kind = content[position] >> 1 & 63
        if kind == _NAL_SPS:
            raise InvalidImage("a HEIC file with parameters among its pictures is not accepted")
        pictures += kind in _NAL_PICTURES and content[position + 2] >> 7  # its first slice
        if pictures > _MAX_PICTURES:
            raise InvalidImage(f"an item of more than {_MAX_PICTURES} pictures is not accepted")
        position += size
    raise InvalidImage(f"a picture of more than {_MAX_BOXES} parts is not accepted")


def _parameter_sets(config: bytes) -> Iterator[bytes]:
    """HEVC's sequence parameter sets in a decoder configuration (ISO/IEC 14496-15, 8.3.3)."""
    position, found = 23, 0
    for _ in range(config[22]):
        kind = config[position] & 63
        (count,) = struct.unpack_from(">H", config, position + 1)
        position += 3
        found += count
        if found > _MAX_PARAMETERS:
            raise InvalidImage(f"a picture with more than {_MAX_PARAMETERS} parameter sets is not accepted")
        for _ in range(count):
            (size,) = struct.unpack_from(">H", config, position)
            if kind == _NAL_SPS:
                yield config[position + 4 : position + 2 + min(size, _MAX_HEADER)]
            position += 2 + size


def _hevc_pixels(payload: bytes) -> int:
    """Pixels of a picture under a sequence parameter set (ITU H.265, 7.3.2.2)."""
    bits = Bits(payload.replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.exp_golomb()
    if bits.exp_golomb() == 3:  # chroma_format_idc
        bits.take(1)
    return bits.exp_golomb() * bits.exp_golomb()
