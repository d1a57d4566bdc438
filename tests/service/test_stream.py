"""The core of streams: one answer for each frame, in order, whatever the pace of either side."""

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import count

import numpy as np
import pytest

from service.batching import Batcher
from service.errors import InvalidArgument, Overloaded, ShuttingDown
from service.estimator import Estimator
from service.frames import Answer, Dropped, Failed, Policy, StreamConfig, StreamFrame
from service.metrics import IN_FLIGHT, STREAM_FRAMES, STREAMS
from service.stream import Stream
from service.types import Boxes, Estimate, Frame, Poses, RawImage, TrackedPerson
from tests.service.test_tracking import person

WINDOW = 3
LATEST, ALL = StreamConfig(), StreamConfig(policy=Policy.ALL)


class Network:
    """Finds a person in every frame, each batch when the test lets it; none in dark frames."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # the brightness of their frames
        self.boxes: list[Boxes | None] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, frames: list[Frame]) -> list[Estimate]:
        self.batches.append([int(frame.image[0, 0, 0]) for frame in frames])
        self.boxes += [frame.boxes for frame in frames]
        self.begun.release()
        assert self.go.acquire(timeout=30)
        if any(frame.image[0, 0, 0] == 255 for frame in frames):
            raise ValueError("too bright")
        return [self._estimate(frame) for frame in frames]

    def _estimate(self, frame: Frame) -> Estimate:
        level = int(frame.image[0, 0, 0])
        return Estimate((person(level),) if level else (), detect=0, pose=0)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


class Rig:
    """A network that the test drives, behind a batcher and an estimator."""

    def __init__(self, max_streams: int = 4) -> None:
        self.network = Network()
        self.batcher = Batcher(self.network, max_batch=1)
        self._decoders = ThreadPoolExecutor(2)
        self.estimator = Estimator(
            self.batcher,
            self._decoders,
            max_images=1,
            max_pixels=1000,
            timeout_s=30,
            max_streams=max_streams,
            stream_window=WINDOW,
        )

    def stream(self, config: StreamConfig = LATEST) -> Stream:
        return Stream(self.estimator, config, api="test", ident="x")

    async def close(self) -> None:
        self.network.go.release(1000)
        await self.batcher.close()
        self._decoders.shutdown()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()


class Camera:
    """Sends frames when the test says so; `taken` counts those that the stream took."""

    def __init__(self) -> None:
        self.taken = 0
        self._queue: asyncio.Queue[StreamFrame | Exception | None] = asyncio.Queue()

    def send(self, *levels: int) -> None:
        """Frames of these brightnesses, which are their ids too."""
        for level in levels:
            self._queue.put_nowait(frame(level))

    def end(self, error: Exception | None = None) -> None:
        self._queue.put_nowait(error)

    async def __aiter__(self) -> AsyncIterator[StreamFrame]:
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            self.taken += 1
            yield item


def frame(level: int, timestamp: float | None = None) -> StreamFrame:
    return StreamFrame(level, RawImage(bytes([level]) * 12, 2, 2), timestamp)


async def settle() -> None:
    """Let every task go as far as it can without the network."""
    for _ in range(20):
        await asyncio.sleep(0)


def told(answers: Iterable[Answer]) -> list[tuple[int, str]]:
    """Ids and what became of the frames."""
    return [(each.frame_id, type(each.outcome).__name__) for each in answers]


async def every(stream: Stream, camera: Camera) -> list[Answer]:
    return [answer async for answer in stream.answers(aiter(camera))]


async def test_latest_drops_what_waits_when_a_newer_frame_comes(rig: Rig) -> None:
    camera = Camera()
    before = STREAM_FRAMES.labels("latest", "dropped")._value.get()
    work = asyncio.create_task(every(rig.stream(), camera))
    camera.send(1)
    await rig.network.has_begun()
    camera.send(2, 3, 4)
    await settle()
    camera.end()
    rig.network.go.release(2)
    answers = await asyncio.wait_for(work, 30)
    assert told(answers) == [(1, "Poses"), (2, "Dropped"), (3, "Dropped"), (4, "Poses")]
    assert answers[1].outcome == Dropped("superseded")
    assert [each.counts.received for each in answers] == [1, 2, 3, 4]
    last = answers[-1].counts
    assert (last.poses, last.dropped, last.errors) == (2, 2, 0)
    assert rig.network.batches == [[1], [4]]
    assert STREAM_FRAMES.labels("latest", "dropped")._value.get() == before + 2


async def test_all_drops_nothing_and_holds_the_sender_back(rig: Rig) -> None:
    camera = Camera()
    work = asyncio.create_task(every(rig.stream(ALL), camera))
    camera.send(*range(1, 11))
    camera.end()
    await rig.network.has_begun()
    await settle()
    assert camera.taken == WINDOW + 1  # one in hand
    rig.network.go.release(10)
    answers = await asyncio.wait_for(work, 30)
    assert told(answers) == [(level, "Poses") for level in range(1, 11)]
    assert rig.network.batches == [[level] for level in range(1, 11)]


@pytest.mark.parametrize(("config", "pictures"), [(LATEST, 3), (ALL, WINDOW + 1)])
async def test_a_reader_that_stops_bounds_what_is_held(rig: Rig, config: StreamConfig, pictures: int) -> None:
    sent: list[weakref.ref[memoryview]] = []

    async def camera() -> AsyncIterator[StreamFrame]:
        for number in count():
            data = memoryview(bytes([1]) * 12)
            sent.append(weakref.ref(data))
            yield StreamFrame(number, RawImage(data, 2, 2))
            del data
            await asyncio.sleep(0)

    rig.network.go.release(1000)
    async with aclosing(rig.stream(config).answers(camera())) as answers:
        await anext(answers)  # and no other
        taken = -1
        while len(sent) != taken:
            taken = len(sent)
            for _ in range(1000):
                await asyncio.sleep(0)
        assert taken <= 258
        assert sum(each() is not None for each in sent) <= pictures


async def test_a_frame_that_fails_is_told_and_the_stream_goes_on(rig: Rig) -> None:
    frames = [
        frame(1),
        StreamFrame(2, b"not an image"),
        frame(255),
        StreamFrame(4, RawImage(b"\1" * 11, 2, 2)),
        StreamFrame(5, RawImage(b"\1" * 6000, 50, 40)),
        frame(6, timestamp=float("nan")),
        frame(7),
    ]

    async def camera() -> AsyncIterator[StreamFrame]:
        for each in frames:
            yield each

    rig.network.go.release(10)
    answers = [answer async for answer in rig.stream(ALL).answers(camera())]
    codes = [each.outcome.code if isinstance(each.outcome, Failed) else "" for each in answers]
    assert codes == ["", "invalid_image", "internal", "invalid_image", "too_large", "invalid_argument", ""]
    assert answers[-1].counts.errors == 5
    assert answers[-1].counts.received == 7


async def test_what_ends_the_frames_is_raised_once_all_are_answered(rig: Rig) -> None:
    camera = Camera()
    camera.send(1, 2)
    camera.end(InvalidArgument("enough"))
    rig.network.go.release(10)
    answers = []
    with pytest.raises(InvalidArgument, match="enough"):
        async for answer in rig.stream(ALL).answers(aiter(camera)):
            answers.append(answer)
    assert told(answers) == [(1, "Poses"), (2, "Poses")]


@pytest.mark.parametrize("config", [LATEST, ALL])
async def test_a_drain_answers_what_was_taken(rig: Rig, config: StreamConfig) -> None:
    camera, answers = Camera(), []

    async def collect() -> None:
        async for answer in rig.stream(config).answers(aiter(camera)):
            answers.append(answer)

    work = asyncio.create_task(collect())
    camera.send(1)
    await rig.network.has_begun()
    camera.send(2)
    await settle()
    drained = asyncio.create_task(rig.estimator.drain(30))
    await settle()
    camera.send(3)
    await settle()
    assert not drained.done()
    rig.network.go.release(5)
    with pytest.raises(ShuttingDown):
        await asyncio.wait_for(work, 30)
    assert told(answers) == [(1, "Poses"), (2, "Poses")]
    await asyncio.wait_for(drained, 30)
    with pytest.raises(ShuttingDown):
        await anext(rig.stream().answers(aiter(camera)))


async def test_streams_beyond_the_places_are_refused_until_one_ends() -> None:
    rig = Rig(max_streams=1)
    camera = Camera()
    camera.send(1)
    rig.network.go.release(10)
    async with aclosing(rig.stream().answers(aiter(camera))) as answers:
        await anext(answers)
        assert STREAMS.labels("test")._value.get() == 1
        with pytest.raises(Overloaded):
            await anext(rig.stream().answers(aiter(Camera())))
    assert STREAMS.labels("test")._value.get() == 0
    camera.send(2)
    async with aclosing(rig.stream().answers(aiter(camera))) as answers:
        assert told([await anext(answers)]) == [(2, "Poses")]
    await rig.close()


@pytest.mark.parametrize("config", [LATEST, ALL])
async def test_a_stream_that_is_left_leaves_nothing(rig: Rig, config: StreamConfig) -> None:
    camera = Camera()
    tasks = asyncio.all_tasks()
    work = asyncio.create_task(every(rig.stream(config), camera))
    camera.send(*range(1, 8))
    await rig.network.has_begun()
    await settle()
    work.cancel()
    await asyncio.wait((work,))
    assert asyncio.all_tasks() == tasks
    assert IN_FLIGHT.labels("test")._value.get() == 0
    assert STREAMS.labels("test")._value.get() == 0
    rig.network.go.release(1)
    other = Camera()
    other.send(9)
    other.end()
    rig.network.go.release(5)
    assert told(await every(rig.stream(), other)) == [(9, "Poses")]
    assert len(rig.network.batches) == 2  # what had begun, and the other stream's


async def test_a_busy_camera_takes_turns_with_a_calm_one(rig: Rig) -> None:
    busy, calm = Camera(), Camera()
    works = [asyncio.create_task(every(rig.stream(ALL), busy))]
    busy.send(*range(1, 21))
    await rig.network.has_begun()
    works.append(asyncio.create_task(every(rig.stream(ALL), calm)))
    calm.send(101, 102, 103)
    await settle()
    await asyncio.to_thread(lambda: None)
    for _ in range(6):
        rig.network.go.release()
        await rig.network.has_begun()
        await settle()
    for camera in (busy, calm):
        camera.end()
    rig.network.go.release(50)
    await asyncio.wait_for(asyncio.gather(*works), 30)
    levels = [level for (level,) in rig.network.batches]
    # at most one frame of the busy camera between two of the calm one, once both wait
    places = [levels.index(level) for level in (101, 102, 103)]
    assert places[1] - places[0] <= 2
    assert places[2] - places[1] <= 2


async def run(rig: Rig, config: StreamConfig, frames: list[StreamFrame]) -> list[Answer]:
    async def camera() -> AsyncIterator[StreamFrame]:
        for each in frames:
            yield each

    rig.network.go.release(len(frames))
    return [answer async for answer in rig.stream(config).answers(camera())]


async def test_tracks_last_over_the_stream(rig: Rig) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True)
    levels = [100, 103, 106, 0, 0, 114, 117, 20]
    frames = [frame(level, timestamp=0.1 * number) for number, level in enumerate(levels)]
    answers = await run(rig, config, frames)
    assert [ids(answer) for answer in answers] == [[1], [1], [1], [], [], [1], [1], [2]]
    assert rig.network.boxes == [None] * 8


async def test_without_tracking_persons_have_no_ids(rig: Rig) -> None:
    (answer,) = await run(rig, ALL, [frame(50)])
    assert isinstance(answer.outcome, Poses)
    assert answer.outcome.persons == (person(50),)


async def test_the_detector_runs_on_one_frame_in_so_many(rig: Rig) -> None:
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


async def test_a_lost_track_calls_the_detector(rig: Rig) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True, detect_every=50)
    frames = [frame(level, timestamp=0.1 * n) for n, level in enumerate([100, 101, 0, 0, 103, 104])]
    answers = await run(rig, config, frames)
    assert [ids(answer) for answer in answers] == [[1], [1], [], [], [1], [1]]
    assert [each is None for each in rig.network.boxes] == [True, False, False, True, True, False]


async def test_a_clock_that_is_set_back_disturbs_no_track(rig: Rig) -> None:
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"camera_id": "a b"},
        {"camera_id": "x" * 65},
        {"detect_every": 0, "tracking": True},
        {"detect_every": 101, "tracking": True},
        {"detect_every": 2},
        {"smoothing": True},
    ],
)
def test_configs_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        StreamConfig(**wrong)  # type: ignore[arg-type]
