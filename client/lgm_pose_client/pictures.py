"""Encoded images and their pixels, by Pillow."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError

from lgm_pose_client.types import Picture, RawImage

_QUALITY = 90


def encode(image: Image.Image) -> bytes:
    """An RGB image as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def decode(picture: Picture) -> Image.Image:
    """The RGB image, upright after its EXIF orientation. Raises ValueError where it cannot be decoded."""
    if isinstance(picture, RawImage):
        order = "RGB" if picture.rgb else "BGR"
        return Image.frombytes("RGB", (picture.width, picture.height), bytes(picture.data), "raw", order)
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture cannot be decoded: {error}") from error
