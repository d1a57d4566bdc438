"""What is made to be costly costs time in proportion to its bytes."""

import time

import pytest

from service.core.image import decode, read_size
from service.core.metadata import png_without_metadata
from service.errors import PoseError
from tests.support.hostile import IMAGES, Hostile, empty_segments, text_chunks

LIMIT = 40_000_000


def seconds(data: bytes) -> float:
    """Processor time of this thread for an image, the least of three."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        try:
            read_size(data, LIMIT)
            decode(data)
        except PoseError:
            pass
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("hostile", IMAGES, ids=lambda hostile: hostile.__name__)
def test_the_cost_of_a_hostile_image_is_linear_in_its_bytes(hostile: Hostile) -> None:
    small, large = seconds(hostile(2**16)), seconds(hostile(2**20))
    assert large < 40 * small + 0.01  # 16 times the bytes; quadratic is 256 times


def test_a_jpeg_of_many_segments_is_refused() -> None:
    with pytest.raises(PoseError, match="more than 1024 segments"):
        read_size(empty_segments(2**13), LIMIT)
    assert read_size(empty_segments(2**11), LIMIT) == (128, 128)


def test_a_decoder_gets_no_texts_that_grow_in_its_memory() -> None:
    bare, _ = png_without_metadata(text_chunks(2**20))
    assert len(bare) < 2**10
    assert decode(bare).shape == decode(text_chunks(2**12)).shape == (64, 64, 3)
