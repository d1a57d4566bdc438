"""Pictures as bytes, files, arrays and decoded images, by Pillow."""

import io
import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from PIL import Image, UnidentifiedImageError

_QUALITY = 95
#: How an image is turned upright for each EXIF orientation (EXIF 2.32, tag 0x0112).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CLOCKWISE = {90: 6, 180: 3, 270: 8}  # degrees: EXIF orientation
_ORIENTATION = 0x0112


class Array(Protocol):
    """An array such as numpy's; as a picture (height, width, 3) uint8 in the order BGR."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""

    @property
    def dtype(self) -> Any:
        """The type of the items."""

    def tobytes(self) -> bytes:
        """The items in C order."""


EncodedImage: TypeAlias = bytes | str | os.PathLike[str] | Array  # encoded, its file, or an array to encode


def encoded(image: EncodedImage) -> bytes:
    """An encoded image: bytes as they are, the content of a file, an array as a JPEG.

    An array is (height, width, 3) uint8 in the order BGR. Raises OSError for a file, ValueError for an array.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if len(image.shape) != 3 or image.shape[2] != 3 or str(image.dtype) != "uint8" or 0 in image.shape:
        raise ValueError(f"an array of {image.dtype} {image.shape} is not (height, width, 3) uint8 in BGR")
    height, width, _ = image.shape
    return encode(from_pixels(image.tobytes(), width, height, "BGR"))


def from_pixels(data: bytes, width: int, height: int, order: str) -> Image.Image:
    """The RGB image of height x width x 3 bytes in the order BGR or RGB. Raises ValueError."""
    return Image.frombytes("RGB", (width, height), data, "raw", order)


def encode(image: Image.Image) -> bytes:
    """An RGB image as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()


def decode(data: bytes, rotate: int = 0) -> Image.Image:
    """The RGB image, upright after its EXIF orientation, then turned by `rotate` degrees clockwise.

    Raises ValueError if it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
            pixels = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture cannot be decoded here: {error}") from error
    return turned(turned(pixels, orientation), _CLOCKWISE.get(rotate, 1))


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned and mirrored as an EXIF orientation says."""
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
