"""The work of every server for a request."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import orjson

from service.core.image import decode
from service.inference.cpu import available_cpus
from service.inference.pipeline import open_pipeline
from service.types import Frame, Options

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"
MAX_BATCH = 8  # the default of the service


def open_work() -> Callable[[Sequence[bytes]], list[bytes]]:
    """A function that maps encoded images to JSON, one answer for each image.

    As in the service, a single image uses all processors, and those of a batch run at the same time.
    """
    cpus = available_cpus()
    pipeline, pool = open_pipeline(WEIGHTS, threads=cpus), ThreadPoolExecutor(cpus)

    def answer(image: bytes, alone: bool) -> bytes:
        (estimate,) = pipeline.run([Frame(decode(image), Options())], alone=alone)
        return orjson.dumps(estimate)

    def work(images: Sequence[bytes]) -> list[bytes]:
        return list(pool.map(answer, images, repeat(len(images) == 1)))

    return work
