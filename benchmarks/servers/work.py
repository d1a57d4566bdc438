"""The work of every server for a request."""

from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from service.core.image import decode
from service.inference.cpu import available_cpus
from service.inference.pipeline import open_pipeline
from service.types import Frame, Options

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"
MAX_BATCH = 8  # the default of the service


def open_work() -> Callable[[Sequence[bytes]], list[bytes]]:
    """A function that maps encoded images to JSON, one answer for each image."""
    pipeline = open_pipeline(WEIGHTS, threads=available_cpus())

    def work(images: Sequence[bytes]) -> list[bytes]:
        return [orjson.dumps(each) for each in pipeline.run([Frame(decode(i), Options()) for i in images])]

    return work
