"""Malformed images of the sizes that people send: `python -m benchmarks.fuzz`.

Each input is a valid image of one of the accepted formats, changed and padded. They go over REST to a
running service on the loopback interface, four at a time. The command prints the statuses, the slowest
answer, and the largest pause of the event loop, also without requests (see benchmarks.loop_pauses). It
exits with 1 after a status of 500 or more, or if a valid photo gets no persons at the end. 501 is
allowed: the answer to HEIC without its extra.
"""

import argparse
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, sleep

import cv2
import httpx
import simplejpeg

from benchmarks.loop_pauses import COMMAND, largest_pause
from tests.support.networks import save_networks
from tests.support.service import ROOT, Service, encode

PARALLEL = 4
LARGEST = 20 * 2**20 - 65_536  # bytes
_SUFFIXES = (".jpg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tiff")
Answer = tuple[int, float, int]  # status, seconds, bytes


def valid_images() -> list[bytes]:
    """A photo in every accepted format, 256 x 256 pixels; HEIC as the service may have it."""
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))
    assert photo is not None
    small = cv2.resize(photo, (256, 256), interpolation=cv2.INTER_AREA)
    progressive = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    inks = bytes(simplejpeg.encode_jpeg(cv2.cvtColor(small, cv2.COLOR_BGR2BGRA), colorspace="CMYK"))
    heic = (ROOT / "tests" / "core" / "astronaut.heic").read_bytes()
    return [*(encode(small, suffix) for suffix in _SUFFIXES), progressive, inks, heic]


def malformed(images: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` images that are changed and padded, the same for each seed; sizes are log-uniform."""
    rng = random.Random(seed)
    for _ in range(count):
        image = rng.choice(images)
        for _ in range(rng.randrange(1, 4)):
            image = rng.choice(_CHANGES)(image, rng, images)
        size = round(math.exp(rng.uniform(math.log(1_000), math.log(LARGEST))))
        yield rng.choice(_PADDINGS)(image, size, rng)[:LARGEST]


def _flip(image: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Bits changed, half of the time in the header."""
    data = bytearray(image)
    end = min(len(data), 700) if rng.random() < 0.5 else len(data)
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _truncate(image: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    return image[: rng.randrange(1, len(image) + 1)]


def _splice(image: bytes, rng: random.Random, images: Sequence[bytes]) -> bytes:
    """The start of the image and the end of any image."""
    other = rng.choice(images)
    return image[: rng.randrange(1, len(image) + 1)] + other[rng.randrange(len(other)) :]


def _repeat(image: bytes, rng: random.Random, _: Sequence[bytes]) -> bytes:
    """A part of the image, again and again."""
    start = rng.randrange(len(image))
    end = min(len(image), start + rng.randrange(1, 2_000))
    return image[:end] + image[start:end] * rng.randrange(1, 2_000) + image[end:]


def _pad_end(image: bytes, size: int, rng: random.Random) -> bytes:
    return image.ljust(size, rng.choice((b"\0", b"\xff", b"a")))


def _pad_inside(image: bytes, size: int, rng: random.Random) -> bytes:
    """A run of one byte inside the image."""
    place = rng.randrange(min(len(image), 2_000) if rng.random() < 0.5 else len(image))
    return image[:place] + rng.choice((b"\0", b"\xff", b"a")) * max(0, size - len(image)) + image[place:]


def _pad_with_noise(image: bytes, size: int, rng: random.Random) -> bytes:
    return image + rng.randbytes(max(0, size - len(image)))


def _pad_with_itself(image: bytes, size: int, _: random.Random) -> bytes:
    return image * max(1, size // len(image))


_CHANGES: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    _flip,
    _truncate,
    _splice,
    _repeat,
)
_PADDINGS: tuple[Callable[[bytes, int, random.Random], bytes], ...] = (
    _pad_end,
    _pad_inside,
    _pad_with_noise,
    _pad_with_itself,
)


def send_all(url: str, inputs: Iterator[bytes]) -> list[Answer]:
    """Post each image; the answers in the order of the images."""
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(PARALLEL) as pool:

        def post(image: bytes) -> Answer:
            start = perf_counter()
            response = client.post("/v1/poses", content=image, headers={"content-type": "image/jpeg"})
            return response.status_code, perf_counter() - start, len(image)

        answers: list[Answer] = []
        while batch := [image for _, image in zip(range(PARALLEL), inputs, strict=False)]:
            answers += pool.map(post, batch)
        return answers


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures; exit with 1 after a failure of the service."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="number of images [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of the changes [%(default)s]")
    chosen = parser.parse_args(arguments)
    photo = (ROOT / "examples" / "astronaut.jpg").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(command=COMMAND, weights=save_networks(Path(folder)))
        sleep(1)  # start-up ends with a garbage collection
        with largest_pause(service) as idle:
            sleep(5)
        with largest_pause(service) as busy:
            answers = send_all(service.url, malformed(valid_images(), chosen.count, chosen.seed))
        good = httpx.post(
            f"{service.url}/v1/poses", content=photo, headers={"content-type": "image/jpeg"}, timeout=60
        )
        service.close()
    statuses = Counter(status for status, _, _ in answers)
    status, seconds, size = max(answers, key=lambda answer: answer[1])
    total = sum(size for _, _, size in answers)
    persons = len(good.json()["results"][0]["persons"]) if good.status_code == 200 else 0
    print(f"{len(answers)} images of {total / 2**20:.0f} MiB, by status: {dict(sorted(statuses.items()))}")
    print(f"slowest answer: {seconds:.2f} s, status {status}, {size} bytes")
    for name, pauses in (("idle", idle), ("with the images", busy)):
        print(f"largest pause of the event loop, {name}: {pauses.largest} ms")
    print(f"a valid photo after them: status {good.status_code}, persons: {persons}")
    raise SystemExit(any(each >= 500 for each in statuses.keys() - {501}) or not persons)


if __name__ == "__main__":
    main()
