"""The One-Euro filter compared with its authors' implementation."""

from collections.abc import Sequence

import numpy as np
import pytest
from OneEuroFilter import OneEuroFilter as Reference

from service.streaming.smoothing import OneEuroFilter

SHAPE = (3, 17, 2)


def wander(steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy walks (steps, 3, 17, 2) of three persons, and uneven times (steps,)."""
    rng = np.random.default_rng(seed)
    walks = np.cumsum(rng.normal(0, 2, (steps, *SHAPE)), 0) + rng.normal(0, 3, (steps, *SHAPE))
    return walks, 1 + np.cumsum(rng.uniform(0.01, 0.2, steps))


def reference(walks: np.ndarray, times: Sequence[float], beta: float) -> np.ndarray:
    """Each coordinate through its own filter."""
    filtered = np.empty_like(walks)
    for index in np.ndindex(walks.shape[1:]):
        one = Reference(freq=30, mincutoff=1.2, beta=beta, dcutoff=0.8)
        filtered[(slice(None), *index)] = [
            one(value, time) for value, time in zip(walks[(slice(None), *index)], times, strict=True)
        ]
    return filtered


def test_the_filter_equals_the_reference() -> None:
    walks, times = wander(60)
    ours = OneEuroFilter(min_cutoff=1.2, beta=0.05, speed_cutoff=0.8)
    smoothed = [
        ours.smooth([4, 7, 9], points, np.ones(3), time) for points, time in zip(walks, times, strict=True)
    ]
    np.testing.assert_allclose(smoothed, reference(walks, times, 0.05), rtol=1e-9)


def test_persons_may_appear_disappear_and_change_their_order() -> None:
    walks, times = wander(40)
    ours = OneEuroFilter(min_cutoff=1.2, beta=0.05, speed_cutoff=0.8)
    rng = np.random.default_rng(1)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    found: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for step, (points, time) in enumerate(zip(walks, times, strict=True)):
        present = [int(person) for person in rng.permutation(3) if rng.random() < 0.7]
        smoothed = ours.smooth(present, points[present], np.ones(len(present)), time)
        for person, row in zip(present, smoothed, strict=True):
            seen[person].append(step)
            found[person].append(row)
    for person, steps in seen.items():
        expected = reference(walks[steps][:, [person]], times[steps], 0.05)[:, 0]
        np.testing.assert_allclose(found[person], expected, rtol=1e-9)


def test_smoothing_is_scale_invariant() -> None:
    walks, times = wander(30)
    small, large = OneEuroFilter(), OneEuroFilter()
    for points, time in zip(walks, times, strict=True):
        one = small.smooth([1, 2, 3], points, np.full(3, 50.0), time)
        two = large.smooth([1, 2, 3], 2 * points, np.full(3, 100.0), time)
    np.testing.assert_allclose(two, 2 * one, rtol=1e-9)


def test_jitter_is_reduced_and_motion_is_followed() -> None:
    """A person who stands, then walks two body lengths per second, at 20 frames per second."""
    rng = np.random.default_rng(2)
    true = np.concatenate([np.zeros(100), np.arange(100) * 10.0])
    noisy = true + rng.normal(0, 1, 200)
    ours = OneEuroFilter()
    smooth = np.array(
        [
            ours.smooth([1], np.full((1, 17, 2), value), np.array([100.0]), 0.05 * step)[0, 0, 0]
            for step, value in enumerate(noisy)
        ]
    )
    assert np.std(np.diff(smooth[20:100])) < 0.5 * np.std(np.diff(noisy[20:100]))
    assert np.abs(smooth[150:] - true[150:]).mean() < 10  # less than a frame behind


def test_a_forgotten_person_starts_a_new_filter() -> None:
    ours = OneEuroFilter()
    points = np.zeros((2, 17, 2))
    ours.smooth([1, 2], points, np.ones(2), 0.0)
    ours.keep({2})
    after = ours.smooth([1, 2], points + 10, np.ones(2), 0.01)
    assert (after[0] == 10).all()
    assert (after[1] < 10).all()


def test_no_persons_give_no_persons() -> None:
    assert OneEuroFilter().smooth([], np.zeros((0, 17, 2)), np.zeros(0), 0.0).shape == (0, 17, 2)


@pytest.mark.parametrize("step", [0.0, 1e-3])
def test_close_frames_give_finite_points(step: float) -> None:
    ours = OneEuroFilter()
    ours.smooth([1], np.zeros((1, 17, 2)), np.ones(1), 1.0)
    assert np.isfinite(ours.smooth([1], np.full((1, 17, 2), 50.0), np.ones(1), 1.0 + step)).all()
