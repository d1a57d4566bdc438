"""Inputs that are made to cost the service much; each grows to any size.

What is linear in a well-meant file may be quadratic in one of these.
"""

import struct
import zlib
from functools import cache

import cv2
import numpy as np
import simplejpeg

from tests.support.hostile_files import FILES, Hostile
from tests.support.service import ROOT


@cache
def _jpeg(progressive: bool = False) -> bytes:
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))
    assert photo is not None
    mode = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", photo[::4, ::4], mode)[1].tobytes()


def fill_bytes(size: int) -> bytes:
    """A JPEG with a run of fill bytes before what is not a marker."""
    jpeg = _jpeg()
    return jpeg[:2] + b"\xff" * size + b"\0" + jpeg[2:]


def fill_bytes_before_marker(size: int) -> bytes:
    """A JPEG with a run of fill bytes before a marker, which is valid."""
    jpeg = _jpeg()
    return jpeg[:2] + b"\xff" * size + jpeg[2:]


def empty_segments(size: int) -> bytes:
    """A JPEG with comments without text."""
    jpeg = _jpeg()
    return jpeg[:2] + b"\xff\xfe\0\2" * (size // 4) + jpeg[2:]


def tables(size: int) -> bytes:
    """A JPEG that defines the same Huffman table again and again."""
    jpeg = _jpeg()
    start = jpeg.index(b"\xff\xc4")
    table = jpeg[start : start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])]
    return jpeg[:start] + table * (size // len(table)) + jpeg[start:]


def stuffed_bytes(size: int) -> bytes:
    """A progressive JPEG with a long last scan of stuffed bytes."""
    jpeg = _jpeg(progressive=True)
    return jpeg[:-2] + b"\xff\0" * (size // 2) + jpeg[-2:]


def restart_markers(size: int) -> bytes:
    """A progressive JPEG that ends in restart markers."""
    jpeg = _jpeg(progressive=True)
    return jpeg[:-2] + b"\xff\xd0" * (size // 2) + jpeg[-2:]


def exif_entries(size: int) -> bytes:
    """A JPEG with EXIF directories that hold only other tags."""
    jpeg = _jpeg()
    entries = 5000
    tiff = b"II*\0" + struct.pack("<IH", 8, entries) + struct.pack("<HHII", 0x010E, 2, 60_000, 8) * entries
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    return jpeg[:2] + segment * max(1, size // len(segment)) + jpeg[2:]


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 64 x 64 grey pixels with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x40" * 64) * 64)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    )


def empty_chunks(size: int) -> bytes:
    """A PNG of chunks without content."""
    return _png(*[(b"teSt", b"")] * (size // 12))


def text_chunks(size: int) -> bytes:
    """A PNG of compressed texts, each a thousand times as long as its chunk."""
    chunk = (b"zTXt", b"t\0\0" + zlib.compress(b"a" * 2**20, 9))
    return _png(*[chunk] * (size // (len(chunk[1]) + 12)))


def png_exif(size: int) -> bytes:
    """A PNG whose EXIF directory names the whole of it again and again."""
    return _png((b"eXIf", _exif(size)))


def _exif(size: int) -> bytes:
    """A TIFF directory whose entries are texts, each as long as all of it."""
    entries = min(65_535, size // 16)
    entry = struct.pack("<HHII", 0x010E, 2, size - 100, 8)
    tiff = b"II*\0" + struct.pack("<IH", 8, entries) + entry * entries
    return tiff + b"a" * (size - len(tiff))


def _webp(flags: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """An extended WebP of 64 x 64 pixels with more chunks before and after its pixels."""
    done, data = cv2.imencode(".webp", np.full((64, 64, 3), 90, np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 50])
    assert done
    extended = b"VP8X" + struct.pack("<IIHBHB", 10, flags, 63, 0, 63, 0)
    body = b"WEBP" + extended + before + data.tobytes()[12:] + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_chunks(size: int) -> bytes:
    """An extended WebP of chunks without content."""
    return _webp(0, before=b"teSt\0\0\0\0" * (size // 8))


def webp_exif(size: int) -> bytes:
    """A WebP whose EXIF directory names the whole of it again and again."""
    exif = _exif(size)
    return _webp(8, after=b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2))


def cmyk_exif_entries(size: int) -> bytes:
    """A JPEG of four inks, with EXIF directories that name themselves again and again."""
    jpeg = simplejpeg.encode_jpeg(np.zeros((64, 64, 4), np.uint8), colorspace="CMYK")
    exif = b"Exif\0\0" + _exif(60_000)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    return bytes(jpeg[:2] + segment * max(1, size // len(segment)) + jpeg[2:])


def zeros(size: int) -> bytes:
    """The magic bytes of a JPEG and nothing."""
    return b"\xff\xd8\xff" + b"\0" * size


IMAGES: tuple[Hostile, ...] = (
    fill_bytes,
    fill_bytes_before_marker,
    empty_segments,
    tables,
    stuffed_bytes,
    restart_markers,
    exif_entries,
    empty_chunks,
    text_chunks,
    png_exif,
    webp_chunks,
    webp_exif,
    cmyk_exif_entries,
    zeros,
    *FILES,
)
