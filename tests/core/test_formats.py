"""Formats beside JPEG, PNG and WebP: what is stored is read, and no file costs more than its pixels may."""

import io
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from PIL import Image

from service.core.image import decode, read_size, turn
from service.errors import ImageTooLarge, InvalidImage, NotInstalled, PoseError
from tests.support.clients import Client, Refused
from tests.support.service import ROOT, Pixels, encode

LIMIT = 40_000_000
HEIC = Path(__file__).with_name("astronaut.heic").read_bytes()  # 96 x 64
needs_heif = pytest.mark.skipif(find_spec("pi_heif") is None, reason="needs pi-heif")


def saved(pixels: Pixels, kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """The pixels as a file that Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., ::-1])).convert(mode).save(file, kind, **options)
    return file.getvalue()


def difference(data: bytes, pixels: Pixels) -> float:
    return float(np.abs(decode(data).astype(int) - pixels).mean())


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".gif", ".avif"])
def test_formats_decode_to_the_pixels_that_were_stored(pixels: Pixels, suffix: str) -> None:
    data = encode(pixels[:300], suffix)
    assert read_size(data, LIMIT) == (512, 300)
    assert difference(data, pixels[:300]) < (
        0.1 if suffix in (".bmp", ".tiff") else 16
    )  # OpenCV has one palette for GIF


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "L", "P", "1"])
def test_kinds_of_tiff(pixels: Pixels, mode: str, compression: str | None) -> None:
    data = saved(pixels, "TIFF", mode, compression=compression)
    assert read_size(data, LIMIT) == (512, 512)
    shown = Image.open(io.BytesIO(data)).convert("RGB")
    assert difference(data, np.asarray(shown)[..., ::-1]) < 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_kinds_of_bmp(pixels: Pixels, mode: str) -> None:
    data = saved(pixels, "BMP", mode)
    assert read_size(data, LIMIT) == (512, 512)
    shown = Image.open(io.BytesIO(data)).convert("RGB")
    assert difference(data, np.asarray(shown)[..., ::-1]) < 1


def test_an_animation_gives_its_first_frame(pixels: Pixels) -> None:
    second = [Image.fromarray(np.zeros_like(pixels))]
    data = saved(pixels, "GIF", save_all=True, append_images=second * 20)
    assert difference(data, pixels) < 6
    assert difference(data[: data.rindex(b"\x21\xf9\x04")], pixels) < 6  # cut off behind it


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_the_picture_upright(pixels: Pixels, kind: str, orientation: int) -> None:
    """AVIF has it in its boxes, TIFF among its tags."""
    cut = pixels[:300]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif.tobytes()} if kind == "AVIF" else {"tiffinfo": {0x0112: orientation}}
    assert difference(saved(cut, kind, **options), turn(cut, orientation)) < 4


@needs_heif
def test_a_heic_photo_is_read(pixels: Pixels) -> None:
    assert read_size(HEIC, LIMIT) == (96, 64)
    small = cv2.resize(pixels, (96, 64), interpolation=cv2.INTER_AREA)
    assert difference(HEIC, small) < 25


def test_a_heic_photo_without_the_extra_names_it() -> None:
    code = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from service.core.image import read_size\n"
        f"read_size(open({str(Path(__file__).with_name('astronaut.heic'))!r}, 'rb').read(), 10**6)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("HEIC images need pi-heif: install lgm-pose[heic]")


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".gif", ".avif"])
def test_both_protocols_take_them(client: Client, pixels: Pixels, suffix: str) -> None:
    (person,) = client.estimate(encode(pixels, suffix))["persons"]
    assert len(person["keypoints"]) == 17


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".gif", ".avif"])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused(client: Client, pixels: Pixels, suffix: str, share: float) -> None:
    data = encode(pixels[::2, ::2], suffix)
    with pytest.raises(Refused) as refused:
        client.estimate(data[: max(8, int(len(data) * share))])
    assert refused.value.status in (400, grpc.StatusCode.INVALID_ARGUMENT)


def patched(data: bytes, place: int, form: str, *values: int) -> bytes:
    packed = struct.pack(form, *values)
    return data[:place] + packed + data[place + len(packed) :]


def tiff(entries: list[tuple[int, int, int, int]], rest: bytes = b"", next_directory: int = 0) -> bytes:
    """A TIFF of one directory, whose entries are tag, type, count and value; `rest` follows it."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next_directory) + rest


def plain(width: int, height: int, **changes: int) -> list[tuple[int, int, int, int]]:
    """Entries of a grey picture in one strip."""
    values = {"width": width, "height": height, "bits": 8, "compression": 1, "light": 1, "strip": 200}
    values |= {"samples": 1, "rows": height, "bytes": width * height} | changes
    tags = {"width": 256, "height": 257, "bits": 258, "compression": 259, "light": 262, "strip": 273}
    tags |= {"samples": 277, "rows": 278, "bytes": 279, "tile_width": 322, "tile_height": 323, "form": 339}
    return [(tags[name], 4, 1, value) for name, value in values.items()]


def test_a_tiff_by_hand_is_read() -> None:
    """The files below fail for one reason each; and a directory that leads to itself is read once."""
    data = tiff(plain(8, 8), bytes(1000), next_directory=8)
    assert read_size(data, LIMIT) == (8, 8)
    assert decode(data).shape == (8, 8, 3)


GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
HOSTILE: dict[str, tuple[bytes, type[PoseError]]] = {
    "bmp, a bomb": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 30_000, -30_000) + bytes(28), ImageTooLarge),
    "bmp, no pixels": (b"BM" + bytes(12) + struct.pack("<Iii", 40, 0, 8) + bytes(28), InvalidImage),
    "bmp, cut": (b"BM" + bytes(14), InvalidImage),
    "gif, a bomb": (b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0), ImageTooLarge),
    "gif, no picture": (GIF_HEAD + b";", InvalidImage),
    "gif, endless blocks": (GIF_HEAD + b"\x21\xfe" + b"\1a" * 2**20, ImageTooLarge),
    "gif, a frame larger than the screen": (
        GIF_HEAD + b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\2\1\x44\0;",
        InvalidImage,
    ),
    "tiff, a bomb": (tiff(plain(30_000, 30_000, bytes=100), bytes(1000)), ImageTooLarge),
    "tiff, a large tile": (
        tiff([*plain(8, 8, tile_width=2**15, tile_height=2**15)], bytes(1000)),
        ImageTooLarge,
    ),
    "tiff, too many entries": (tiff([(1000 + n, 4, 1, 0) for n in range(600)]), ImageTooLarge),
    "tiff, a tag twice": (tiff([*plain(8, 8), *plain(8, 8)]), InvalidImage),
    "tiff, strips of the same bytes": (tiff(plain(8, 8, bytes=2**31), bytes(1000)), InvalidImage),
    "tiff, endless numbers": (tiff([*plain(8, 8)[:6], (279, 4, 2**32 - 1, 8)]), InvalidImage),
    "tiff, floats": (tiff(plain(8, 8, bits=32, form=3), bytes(1000)), InvalidImage),
    "tiff, unknown compression": (tiff(plain(8, 8, compression=7), bytes(1000)), InvalidImage),
    "tiff, cut": (b"II*\0\x08\0\0\0\x0a\0\0", InvalidImage),
    "heic, cut": (HEIC[:300], InvalidImage),
    "avif, nothing": (b"\0\0\0\x14ftypavif\0\0\0\0avif", InvalidImage),
    "avif, endless boxes": (b"\0\0\0\x14ftypavif\0\0\0\0avif" + b"\0\0\0\x08free" * 10_000, InvalidImage),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(client: Client, name: str) -> None:
    data, kind = HOSTILE[name]
    expected: tuple[type[PoseError], ...] = (kind, NotInstalled) if "heic" in name else (kind,)
    with pytest.raises(expected):
        read_size(data, LIMIT)
        decode(data)
    with pytest.raises(Refused) as refused:
        client.estimate(data)
    assert refused.value.status in (400, 413, 501, *(each.grpc_status for each in expected))


def test_a_picture_larger_than_its_file_says_is_refused_before_it_is_decoded(pixels: Pixels) -> None:
    large = saved(np.zeros((2000, 3000, 3), np.uint8), "AVIF", speed=10)
    place = large.index(b"ispe") + 8
    small = patched(large, place, ">II", 16, 16)
    assert read_size(large, LIMIT) == (3000, 2000)
    with pytest.raises(ImageTooLarge, match="6000000 pixels"):
        read_size(small, 1_000_000)
    with pytest.raises(ImageTooLarge, match="30000 x 30000"):
        read_size(patched(large, place, ">II", 30_000, 30_000), LIMIT)


@needs_heif
def test_a_heic_picture_larger_than_its_file_says_is_refused() -> None:
    place = HEIC.index(b"ispe") + 8
    assert read_size(HEIC, LIMIT) == (96, 64)
    with pytest.raises(ImageTooLarge, match="30000 x 30000"):
        read_size(patched(HEIC, place, ">II", 30_000, 30_000), LIMIT)
    config = HEIC.index(b"hvcC") + 4
    with pytest.raises(PoseError):  # with a length of parameters that is not theirs
        read_size(patched(HEIC, config + 22, ">B", 255), LIMIT)


def test_a_sequence_of_avif_pictures_is_refused(pixels: Pixels) -> None:
    frames = [Image.fromarray(np.zeros((64, 64, 3), np.uint8))] * 3
    data = saved(pixels[:64, :64], "AVIF", save_all=True, append_images=frames)
    with pytest.raises(InvalidImage, match="sequence"):
        read_size(data, LIMIT)
