"""Tracks, smoothing and rarer detection over a stream."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from service.streaming.camera import Camera
from service.streaming.frames import Answer, Policy, StreamConfig, StreamFrame
from service.types import Poses, TrackedPerson
from tests.streaming.test_tracking import person
from tests.support.rig import ALL, Rig, frame, outcomes


async def run(rig: Rig, config: StreamConfig, frames: list[StreamFrame]) -> list[Answer]:
    async def camera() -> AsyncIterator[StreamFrame]:
        for each in frames:
            yield each

    rig.network.go.release(len(frames))
    return [answer async for answer in rig.stream(config).answers(camera())]


async def test_tracks_last_over_the_stream(rig: Rig) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True)
    levels = [100, 103, 106, 0, 0, 114, 117, 20, 20, 20]
    frames = [frame(level, timestamp=0.1 * number) for number, level in enumerate(levels)]
    answers = await run(rig, config, frames)
    assert [ids(answer) for answer in answers] == [[1], [1], [1], [], [], [1], [1], [], [], [2]]
    assert rig.network.boxes == [None] * 10


async def test_without_tracking_persons_have_no_ids(rig: Rig) -> None:
    (answer,) = await run(rig, ALL, [frame(50)])
    assert isinstance(answer.outcome, Poses)
    assert answer.outcome.persons == (person(50),)


async def test_the_detector_runs_on_one_frame_in_detect_every(rig: Rig) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True, detect_every=4)
    frames = [frame(100 + number, timestamp=0.1 * number) for number in range(9)]
    answers = await run(rig, config, frames)
    assert [ids(answer) for answer in answers] == [[1]] * 9
    assert [each is None for each in rig.network.boxes] == [n % 4 == 0 for n in range(9)]
    second = rig.network.boxes[1]
    assert second is not None
    np.testing.assert_allclose(second.boxes, [person(100).bbox], atol=0.01)
    np.testing.assert_allclose(second.scores, [0.9], atol=1e-3)
    third = rig.network.boxes[2]
    assert third is not None
    assert third.boxes[0, 0] > person(101).bbox[0]  # ahead, as the person moves


async def test_the_event_loop_runs_while_tracks_are_updated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, ran = asyncio.get_running_loop(), threading.Event()
    update = Camera.update

    def waiting(camera: Camera, *arguments: Any, **options: Any) -> Any:
        loop.call_soon_threadsafe(ran.set)
        assert ran.wait(timeout=10)  # never set if the update runs on the event loop
        return update(camera, *arguments, **options)

    monkeypatch.setattr(Camera, "update", waiting)
    (answer,) = await run(rig, StreamConfig(policy=Policy.ALL, tracking=True), [frame(50)])
    assert ids(answer) == [1]


async def test_a_frame_whose_tracks_cannot_be_updated_fails_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Camera.update

    def fails_once(camera: Camera, persons: Any, time: float, **options: Any) -> Any:
        if time == 0.1:
            raise ValueError("not a number")
        return update(camera, persons, time, **options)

    monkeypatch.setattr(Camera, "update", fails_once)
    frames = [frame(100 + number, timestamp=0.1 * number) for number in range(3)]
    answers = await asyncio.wait_for(run(rig, StreamConfig(policy=Policy.ALL, tracking=True), frames), 20)
    assert outcomes(answers) == [(100, "Poses"), (101, "Failed"), (102, "Poses")]


async def test_a_lost_track_starts_the_detector(rig: Rig) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True, detect_every=50)
    frames = [frame(level, timestamp=0.1 * n) for n, level in enumerate([100, 101, 0, 0, 103, 104])]
    answers = await run(rig, config, frames)
    assert [ids(answer) for answer in answers] == [[1], [1], [], [], [1], [1]]
    assert [each is None for each in rig.network.boxes] == [True, False, False, True, True, False]


async def test_a_clock_that_is_set_back_keeps_the_tracks(rig: Rig) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True, smoothing=True)
    times = [1000.0, 1000.1, 1000.2, 5.0, 5.1, 5.1, 5.2]
    frames = [frame(100 + 3 * n, timestamp=time) for n, time in enumerate(times)]
    answers = await run(rig, config, frames)
    assert [ids(answer) for answer in answers] == [[1]] * 7


async def test_smoothing_steadies_keypoints_and_not_ids(rig: Rig) -> None:
    levels = [100, 104, 100, 104, 100, 104, 100, 104]
    frames = [frame(level, timestamp=0.05 * n) for n, level in enumerate(levels)]
    config = StreamConfig(policy=Policy.ALL, tracking=True, smoothing=True)
    answers = await run(rig, config, frames)
    noses = [answer.outcome.persons[0].keypoints[0][0] for answer in answers]  # type: ignore[union-attr]
    assert np.abs(np.diff(noses)).max() < 3
    assert [ids(answer) for answer in answers] == [[1]] * 8


def ids(answer: Answer) -> list[int]:
    assert isinstance(answer.outcome, Poses)
    return [each.track_id for each in answer.outcome.persons if isinstance(each, TrackedPerson)]
