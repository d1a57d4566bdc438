import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service.inference.runtime import OnnxSession

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"
SHAPES = {"pose": (256, 192, 3), "detector": (384, 384, 3)}


@pytest.mark.parametrize("task", SHAPES)
def test_each_image_gets_its_own_answer_however_many_threads_share_a_batch(task: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPES[task]), np.uint8)
    one, three = (OnnxSession(WEIGHTS / f"{task}.onnx", threads=threads) for threads in (1, 3))
    alone = [one.run(images[index : index + 1]) for index in range(5)]
    for count in (1, 2, 3, 5):  # fewer than the threads, as many, more
        for output, expected in zip(three.run(images[:count]), zip(*alone[:count], strict=True), strict=True):
            np.testing.assert_allclose(output, np.concatenate(expected), rtol=1e-4, atol=1e-3)


def test_a_network_that_is_let_go_takes_its_threads_along() -> None:
    before = set(threading.enumerate())
    session = OnnxSession(WEIGHTS / "pose.onnx", threads=2)
    session.run(np.zeros((4, *SHAPES["pose"]), np.uint8))
    started = set(threading.enumerate()) - before
    assert started
    del session
    gc.collect()
    deadline = time.monotonic() + 30
    while any(thread.is_alive() for thread in started):
        assert time.monotonic() < deadline
        time.sleep(0.02)
