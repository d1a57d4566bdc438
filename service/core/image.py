"""Decodes image files: formats, limits, orientation."""

import re
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from types import ModuleType

import cv2
import numpy as np
import simplejpeg

from service.core.formats import bmp_size, first_gif_frame, gif_size, tiff_size, tiff_without_metadata
from service.core.isobmff import isobmff_kind, read_still
from service.core.metadata import exif_orientation, png_without_metadata, webp_without_metadata
from service.errors import ImageTooLarge, InvalidImage, NotInstalled
from service.types import Image, Picture, RawImage

MAX_SIDE = 32_766  # OpenCV cannot warp an image with a longer side
_MAX_SCANS = 64  # a progressive JPEG with many scans takes minutes to decode
_MAX_SEGMENTS = 1024  # cameras write some dozens; walking a file of empty ones takes seconds
_JPEG = b"\xff\xd8\xff"
# none of these occurs in entropy-coded data; fill bytes FF may stand before a marker, and are not part of the
# expression, which would take quadratic time on a run of them
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd7])")
_WINDOW = 2**14  # bytes searched at a time: a search holds the interpreter's lock, which the event loop needs
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_METADATA = {*range(0xE0, 0xF0), 0xFE} - {0xEE}  # application data and comments, without Adobe's
_PROGRESSIVE = {0xC2, 0xCA}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # headers of frames, by the kind of coding
_CLOCKWISE = {0: 1, 90: 6, 180: 3, 270: 8}  # EXIF orientations by degrees
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF, _GIF = (b"II*\0", b"MM\0*"), (b"GIF87a", b"GIF89a")
_CODED_PADDING = 64  # pixels that a coded picture may be wider and higher than what is shown of it


def read_size(data: Picture, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels as the header gives them; decodes no pixel.

    Raises InvalidImage for what is not a JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF or HEIC; ImageTooLarge for
    more than `max_pixels` or a side over MAX_SIDE; NotInstalled where a HEIC image needs an extra.
    """
    try:
        width, height, coded = _raw_size(data) if isinstance(data, RawImage) else _header(data)
    except (struct.error, ValueError, KeyError, IndexError) as error:  # KeyError: simplejpeg, unknown colours
        raise InvalidImage("the image's header is damaged") from error
    if width < 1 or height < 1:
        raise InvalidImage("the image has no pixels")
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width} x {height} pixels are more than {max_pixels}")
    if coded > max(max_pixels, (width + _CODED_PADDING) * (height + _CODED_PADDING)):
        raise ImageTooLarge(f"a picture inside the file has {coded} pixels, more than {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"a side of {max(width, height)} pixels is longer than {MAX_SIDE}")
    return width, height


def decode(data: Picture, rotate: int = 0) -> Image:
    """The image uint8 BGR (H, W, 3), turned by its EXIF orientation, then clockwise by `rotate` degrees.

    The first frame of an animation. Check it with `read_size` first. Raises InvalidImage.
    """
    return turn(_decode(data), _CLOCKWISE[rotate])


def turn(image: Image, orientation: int) -> Image:
    """The image (H, W, 3), rotated and mirrored by an EXIF orientation, 1 to 8; contiguous."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])


def _decode(data: Picture) -> Image:
    """The image (H, W, 3), turned by its EXIF orientation."""
    if isinstance(data, RawImage):
        pixels = np.frombuffer(data.data, np.uint8).reshape(data.height, data.width, 3)
        return np.ascontiguousarray(pixels[..., ::-1]) if data.rgb else pixels
    if data.startswith(_JPEG) and (image := _decode_jpeg(data)) is not None:
        return turn(image, _jpeg_orientation(data))
    if isobmff_kind(data) == "heic":
        return _decode_heic(data)
    pixels_only, orientation = _without_metadata(data)
    try:
        decoded = cv2.imdecode(np.frombuffer(pixels_only, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InvalidImage("the image cannot be decoded") from error
    if decoded is None:
        raise InvalidImage("the image cannot be decoded: it is damaged or truncated")
    return turn(np.asarray(decoded, np.uint8), orientation)


def _without_metadata(data: bytes) -> tuple[bytes, int]:
    """The file without metadata, for the decoder, and its orientation."""
    if data.startswith(_PNG):
        return png_without_metadata(data)
    if data.startswith(b"RIFF"):
        return webp_without_metadata(data)
    if data.startswith(_GIF):
        return first_gif_frame(data), 1
    if isobmff_kind(data):
        return data, read_still(data).orientation
    if data.startswith(_TIFF):
        return tiff_without_metadata(data), 1  # OpenCV turns it itself
    return (_jpeg_without_metadata(data), _jpeg_orientation(data)) if data.startswith(_JPEG) else (data, 1)


def _raw_size(raw: RawImage) -> tuple[int, int, int]:
    if len(raw.data) != raw.width * raw.height * 3:
        raise InvalidImage(
            f"{len(raw.data)} bytes are not {raw.width} x {raw.height} pixels of 3 bytes in BGR or RGB"
        )
    return raw.width, raw.height, 0


def _header(data: bytes) -> tuple[int, int, int]:
    """Width and height, and the size in pixels of the largest picture inside the file; 0 if it is the same.

    Raises struct.error, ValueError, KeyError or IndexError where the header is damaged.
    """
    if not data:
        raise InvalidImage("the image is empty")
    if kind := isobmff_kind(data):
        if kind == "heic":
            _heif_library()
        still = read_still(data)
        return still.width, still.height, still.decoded
    for starts, size in _SIZES.items():
        if data.startswith(starts):
            return *size(data), 0
    raise InvalidImage("not an image of an accepted format: JPEG, PNG, WebP, AVIF, HEIC, BMP, TIFF or GIF")


def _png_size(data: bytes) -> tuple[int, int]:
    name, width, height = struct.unpack_from(">4sII", data, 12)
    if name != b"IHDR":
        raise ValueError(name)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    frame_size = _jpeg_frame_size(data)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # such as sampling factors that it has no name for; OpenCV reads them
        return frame_size
    return width, height


def _jpeg_frame_size(data: bytes) -> tuple[int, int]:
    """Raises ValueError without a frame, InvalidImage for more than 8 bits, ImageTooLarge for many scans.

    Only a progressive JPEG may have more scans than components.
    """
    size, progressive, scans = None, False, 0
    for marker, _, content in _jpeg_segments(data):
        progressive |= marker in _PROGRESSIVE
        scans += marker == _SOS
        if marker in _FRAMES and size is None:
            bits, height, width = struct.unpack_from(">BHH", content)
            if bits != 8:
                raise InvalidImage(f"a JPEG of {bits} bits for each colour is not accepted, only of 8")
            size = width, height
        if scans > _MAX_SCANS:
            raise ImageTooLarge(f"the JPEG has more than {_MAX_SCANS} scans")
        if scans and size and not progressive:
            break
    if size is None:
        raise ValueError("no frame")
    return size


def _jpeg_without_metadata(data: bytes) -> bytes:
    """The JPEG without comments and application data, except Adobe's, which says how colours are coded."""
    kept = [data[:2]]
    for marker, start, content in _jpeg_segments(data):
        if marker == _SOS:
            return b"".join((*kept, data[start:]))
        if marker not in _METADATA:
            kept.append(data[start : start + 4] + content)
    return data


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, place and content of each segment up to the end of the image (ITU T.81, annex B).

    Raises ImageTooLarge after _MAX_SEGMENTS segments.
    """
    position = len(_JPEG) - 1
    for _ in range(_MAX_SEGMENTS):
        found = _find_marker(data, position)
        if found is None or found[1][0] == _EOI:
            return
        position = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
        yield found[1][0], found.start(), data[found.end() + 2 : position]
    raise ImageTooLarge(f"the JPEG has more than {_MAX_SEGMENTS} segments")


def _find_marker(data: bytes, position: int) -> re.Match[bytes] | None:
    """The first marker at or after a position."""
    for start in range(position, len(data), _WINDOW):
        # a marker that begins in the window may end one byte after it
        if found := _JPEG_MARKER.search(data, start, start + _WINDOW + 1):
            return found
    return None


def _jpeg_orientation(data: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 if it is missing or damaged."""
    for marker, _, content in _jpeg_segments(data):
        if marker == _SOS:
            break
        if marker == _APP1 and content.startswith(b"Exif\0\0"):
            return exif_orientation(content)
    return 1


def _webp_size(data: bytes) -> tuple[int, int]:
    """https://developers.google.com/speed/webp/docs/riff_container, RFC 6386 9.1 for VP8."""
    if data[8:12] != b"WEBP":
        raise InvalidImage("a RIFF file that is not a WebP image")
    kind = data[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return (low_w | high_w << 16) + 1, (low_h | high_h << 16) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(kind)


def _decode_jpeg(data: bytes) -> Image | None:
    """The pixels as stored; None for a JPEG that simplejpeg does not read or convert (CMYK)."""
    try:
        *_, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):
        return None
    if colorspace in ("CMYK", "YCCK"):
        return None
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR"))
    except ValueError as error:
        # cameras write stray bytes between segments, which is harmless; only missing data is an error
        if "end of JPEG file" in str(error):
            raise InvalidImage("the image is truncated") from error
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR", strict=False))
    except ValueError as error:
        raise InvalidImage("the image cannot be decoded: it is damaged") from error


def _heif_library() -> ModuleType:
    """Raises NotInstalled."""
    try:
        import pi_heif
    except ImportError:
        raise NotInstalled("HEIC images need pi-heif: install lgm-pose[heic]") from None
    library: ModuleType = pi_heif
    return library


def _decode_heic(data: bytes) -> Image:
    """The image as its properties turn it."""
    try:
        picture = _heif_library().open_heif(BytesIO(data), bgr_mode=True)
        pixels = np.asarray(picture)
    except (ValueError, EOFError, RuntimeError, SyntaxError, OSError) as error:
        raise InvalidImage("the HEIC image cannot be decoded: it is damaged or truncated") from error
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    return np.ascontiguousarray(pixels[..., :3])


_SIZES: dict[bytes | tuple[bytes, ...], Callable[[bytes], tuple[int, int]]] = {
    _JPEG: _jpeg_size,
    _PNG: _png_size,
    b"RIFF": _webp_size,
    b"BM": bmp_size,
    _GIF: gif_size,
    _TIFF: tiff_size,
}
