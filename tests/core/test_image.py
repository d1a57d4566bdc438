"""Decoding: formats, orientation, limits, damage."""

import io
import resource
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from service.core.image import MAX_SIDE, decode, read_size
from service.errors import ImageTooLarge, InvalidImage
from tests.support.service import Pixels, encode

LIMIT = 40_000_000


def png_of_zeros(width: int, height: int) -> bytes:
    """A grey PNG with one bit per pixel: a few bytes for any number of pixels."""
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with a different size in its frame header."""
    start = next(i for i in range(len(jpeg)) if jpeg[i] == 0xFF and jpeg[i + 1] in (0xC0, 0xC1, 0xC2))
    return jpeg[: start + 5] + struct.pack(">HH", height, width) + jpeg[start + 9 :]


def with_orientation(jpeg: bytes, orientation: int, order: str = "<") -> bytes:
    """The JPEG with an EXIF segment that holds only an orientation."""
    content = b"Exif\0\0" + tiff_of(orientation, order)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def tiff_of(orientation: int, order: str = "<") -> bytes:
    """EXIF data that hold only an orientation."""
    entries = struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return (b"II" if order == "<" else b"MM") + entries


def png_with(png: bytes, exif: bytes) -> bytes:
    """The PNG with EXIF data behind its header."""
    chunk = b"eXIf" + exif
    return png[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def webp_with(webp: bytes, exif: bytes) -> bytes:
    """The simple WebP as an extended one with EXIF data at its end."""
    width, height = read_size(webp, LIMIT)
    extended = struct.pack("<4sIIHBHB", b"VP8X", 10, 8, width - 1, 0, height - 1, 0)
    body = b"WEBP" + extended + webp[12:] + struct.pack("<4sI", b"EXIF", len(exif)) + exif
    return struct.pack("<4sI", b"RIFF", len(body)) + body


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_formats_decode_to_the_pixels_that_were_stored(pixels: Pixels, suffix: str) -> None:
    data = encode(pixels[:300], suffix)
    assert read_size(data, LIMIT) == (512, 300)
    difference = np.abs(decode(data).astype(int) - pixels[:300]).mean()
    assert difference < 6 if suffix != ".png" else difference == 0


@pytest.mark.parametrize("quality", [1, 50, 101])
def test_the_size_of_every_kind_of_webp_is_read(pixels: Pixels, quality: int) -> None:
    done, data = cv2.imencode(".webp", pixels[:301, :203], [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done
    assert read_size(data.tobytes(), LIMIT) == (203, 301)


def test_the_size_of_an_extended_webp_is_its_canvas(pixels: Pixels) -> None:
    rgba = cv2.cvtColor(pixels[:301, :203], cv2.COLOR_BGR2BGRA)
    rgba[:50, :, 3] = 7
    done, data = cv2.imencode(".webp", rgba, [cv2.IMWRITE_WEBP_QUALITY, 50])
    assert done
    assert data.tobytes()[12:16] == b"VP8X"
    assert read_size(data.tobytes(), LIMIT) == (203, 301)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_the_picture_upright(photo: bytes, orientation: int, order: str) -> None:
    turned = with_orientation(photo, orientation, order)
    reference = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert reference is not None
    assert np.abs(decode(turned).astype(int) - reference).max() <= 3  # the two round colours differently


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_and_webp_are_turned_upright_like_jpeg(pixels: Pixels, orientation: int, prefix: bytes) -> None:
    small = np.ascontiguousarray(pixels[::4, ::8])
    exif = prefix + tiff_of(orientation)
    turned = np.asarray(decode(with_orientation(encode(small), orientation)), int)
    for picture in (png_with(encode(small, ".png"), exif), webp_with(encode(small, ".webp"), exif)):
        decoded = decode(picture)
        assert decoded.shape == turned.shape
        assert np.abs(decoded - turned).mean() < 10


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored(photo: bytes, orientation: int) -> None:
    assert np.array_equal(decode(with_orientation(photo, orientation)), decode(photo))


def test_a_damaged_exif_directory_is_ignored(photo: bytes) -> None:
    whole = with_orientation(photo, 6)
    start = whole.index(b"II*\0")
    damaged = whole[: start + 4] + b"\xff\xff\xff\xff" + whole[start + 8 :]
    assert np.array_equal(decode(damaged), decode(photo))


def test_grey_and_deep_and_transparent_images_become_bgr(pixels: Pixels) -> None:
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    deep = pixels.astype(np.uint16) * 257
    transparent = np.dstack([pixels, np.full(pixels.shape[:2], 99, np.uint8)])
    for image in (grey, deep, transparent):
        decoded = decode(encode(image, ".png"))
        assert decoded.shape == (512, 512, 3)
        assert decoded.dtype == np.uint8
    assert np.array_equal(decode(encode(deep, ".png")), pixels)
    assert decode(encode(grey, ".jpg")).shape == (512, 512, 3)


def test_a_cmyk_jpeg_is_decoded(pixels: Pixels) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    ink = np.dstack([255 - pixels, np.zeros(pixels.shape[:2], np.uint8)])
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(ink), colorspace="CMYK")
    assert decode(data).shape == (512, 512, 3)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_jpegs_are_read_in_all_colours_and_samplings(
    pixels: Pixels, mode: str, progressive: bool, subsampling: str
) -> None:
    file = io.BytesIO()
    photo = PIL.Image.fromarray(pixels[..., ::-1]).convert(mode)
    photo.save(file, "JPEG", quality=95, subsampling=subsampling, progressive=progressive)
    data = file.getvalue()
    assert read_size(data, LIMIT) == (512, 512)
    shown = np.asarray(PIL.Image.open(file).convert("RGB"))[..., ::-1]
    assert np.abs(decode(data).astype(int) - shown).mean() < 1.5
    with pytest.raises(InvalidImage):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("factors", [(1, 4), (4, 2), (2, 3), (3, 1), (4, 1), (1, 3), (2, 4)])
def test_jpegs_are_read_with_any_sampling_factors(factors: tuple[int, int]) -> None:
    """Made of a grey JPEG of as many blocks, whose frame and scan are renamed to three colours."""
    across, down = factors
    side = 24 * 16  # whole units for each of the factors
    blocks = (side // 8 // across) * (side // 8 // down) * (across * down + 2)
    grey = encode(np.full((8, 8 * blocks), 200, np.uint8), ".jpg")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    frame_end, scan_end = (place + 2 + int.from_bytes(grey[place + 2 : place + 4]) for place in (frame, scan))
    components = bytes((1, across << 4 | down, 0, 2, 0x11, 0, 3, 0x11, 0))
    new_frame = struct.pack(">HHBHHB", 0xFFC0, 17, 8, side, side, 3) + components
    new_scan = struct.pack(">HHB", 0xFFDA, 12, 3) + bytes((1, 0, 2, 0, 3, 0, 0, 63, 0))
    data = grey[:frame] + new_frame + grey[frame_end:scan] + new_scan + grey[scan_end:]
    assert read_size(data, LIMIT) == (side, side)
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert reference is not None
    decoded = decode(data)
    assert decoded.shape == (side, side, 3)
    assert np.abs(decoded.astype(int) - reference).max() <= 3


def test_a_jpeg_of_12_bits_is_refused_with_the_reason(photo: bytes) -> None:
    start = photo.index(b"\xff\xc0")
    with pytest.raises(InvalidImage, match="12 bits"):
        read_size(photo[: start + 4] + b"\x0c" + photo[start + 5 :], LIMIT)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused(pixels: Pixels, suffix: str, share: float) -> None:
    data = encode(pixels, suffix)
    cut = data[: int(len(data) * share)]
    with pytest.raises(InvalidImage):
        read_size(cut, LIMIT)
        decode(cut)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<svg/>",
        b"%PDF-1.7",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF",
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        read_size(data, LIMIT)


def test_a_png_chunk_costs_no_more_memory_than_the_file_holds(pixels: Pixels) -> None:
    data = encode(pixels, ".png")
    place = data.index(b"IDAT") - 4
    hostile = data[:place] + struct.pack(">I", 2**29) + data[place + 4 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidImage, match="truncated"):
        decode(hostile)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # kB


@pytest.mark.parametrize("side", [10_000, 20_000, 32_766])
def test_a_decompression_bomb_is_refused_from_its_header(photo: bytes, side: int) -> None:
    bombs = [png_of_zeros(side, side), with_size(photo, side, side)]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(ImageTooLarge, match=f"{side} x {side} pixels"):
            read_size(bomb, LIMIT)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_limits_are_exact(pixels: Pixels) -> None:
    data = encode(pixels, ".png")
    assert read_size(data, 512 * 512) == (512, 512)
    with pytest.raises(ImageTooLarge):
        read_size(data, 512 * 512 - 1)
    assert read_size(png_of_zeros(MAX_SIDE, 1), LIMIT) == (MAX_SIDE, 1)
    with pytest.raises(ImageTooLarge, match="side"):
        read_size(png_of_zeros(MAX_SIDE + 1, 1), LIMIT)


def test_a_jpeg_with_too_many_scans_is_refused(pixels: Pixels) -> None:
    done, array = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    data = array.tobytes()
    assert read_size(data, LIMIT) == (512, 512)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageTooLarge, match="scans"):
        read_size(data[:-2] + last_scan * 100 + data[-2:], LIMIT)


def test_extra_bytes_of_cameras_are_accepted(photo: bytes) -> None:
    video_behind_the_photo = photo + b"\xff\xda\0\0" * 1000
    bytes_between_segments = photo[:-2] + b"\0\0\0" + photo[-2:]
    for data in (video_behind_the_photo, bytes_between_segments):
        assert read_size(data, LIMIT) == (512, 512)
        assert np.array_equal(decode(data), decode(photo))


def test_an_animation_gives_its_first_frame(pixels: Pixels) -> None:
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(pixels[:256]), np.ascontiguousarray(pixels[256:])]
    animation.durations = [100, 100]
    done, data = cv2.imencodeanimation(".webp", animation)
    assert done
    assert read_size(data.tobytes(), LIMIT) == (512, 256)
    assert np.abs(decode(data.tobytes()).astype(int) - pixels[:256]).mean() < 12
