from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.inference.runtime import OnnxSession

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"
SHAPES = {"pose": (256, 192, 3), "detector": (384, 384, 3)}


@pytest.mark.parametrize("task", SHAPES)
def test_each_image_of_a_batch_gets_its_own_answer(task: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPES[task]), np.uint8)
    one, three = (OnnxSession(WEIGHTS / f"{task}.onnx", threads=threads) for threads in (1, 3))
    alone = [one.run(images[index : index + 1]) for index in range(5)]
    for session in (one, three):
        for output, expected in zip(session.run(images), zip(*alone, strict=True), strict=True):
            np.testing.assert_allclose(output, np.concatenate(expected), rtol=1e-4, atol=1e-3)


def test_calls_at_the_same_time_get_their_own_answers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, *SHAPES["detector"]), np.uint8)
    session = OnnxSession(WEIGHTS / "detector.onnx", threads=1)
    alone = [session.run(image) for image in images[:, None]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(session.run, images[:, None]))
    for one, other in zip(alone, together, strict=True):
        for output, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(output, expected)
