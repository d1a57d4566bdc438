"""The core of streams: one answer for each frame, in order, at any pace of either side."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count

import pytest

from service.errors import InferenceFailed, InvalidArgument, Overloaded, ShuttingDown
from service.observability.metrics import IN_FLIGHT, STREAM_FRAMES, STREAMS
from service.security.client import CLIENT, Client
from service.streaming.frames import Answer, Dropped, Failed, StreamConfig, StreamFrame
from service.streaming.stream import WINDOW
from service.types import RawImage
from tests.support.rig import ALL, LATEST, Camera, Rig, every, frame, outcomes, settle


async def test_latest_drops_the_waiting_frame_when_a_newer_one_arrives(rig: Rig) -> None:
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
    assert outcomes(answers) == [(1, "Poses"), (2, "Dropped"), (3, "Dropped"), (4, "Poses")]
    assert answers[1].outcome == Dropped("superseded")
    assert [each.counts.received for each in answers] == [1, 2, 3, 4]
    last = answers[-1].counts
    assert (last.poses, last.dropped, last.errors) == (2, 2, 0)
    assert rig.network.batches == [[1], [4]]
    assert STREAM_FRAMES.labels("latest", "dropped")._value.get() == before + 2


async def test_latest_takes_the_newest_frame_when_its_turn_comes(rig: Rig) -> None:
    first, camera, answers = Camera(), Camera(), []

    async def collect() -> None:
        async for answer in rig.stream().answers(aiter(camera)):
            answers.append(answer)

    works = [asyncio.create_task(every(rig.stream(), first))]
    first.send(1)
    await rig.network.has_begun()
    works.append(asyncio.create_task(collect()))
    camera.send(2)
    await settle()
    assert rig.batcher._waiting  # it has its turn, behind the frame that runs
    camera.send(3, 4)
    await settle()
    assert outcomes(answers) == [(2, "Dropped"), (3, "Dropped")]  # at once
    rig.network.go.release()
    await rig.network.has_begun()
    camera.send(5)
    await settle()
    assert len(answers) == 2
    for each in (first, camera):
        each.end()
    rig.network.go.release(2)
    await asyncio.wait_for(asyncio.gather(*works), 30)
    assert rig.network.batches == [[1], [4], [5]]
    assert outcomes(answers) == [(2, "Dropped"), (3, "Dropped"), (4, "Poses"), (5, "Poses")]


async def test_latest_chooses_once_the_rate_of_the_key_allows(rig: Rig) -> None:
    may_go = asyncio.Event()

    class Slow(Client):
        async def wait_for_token(self) -> None:
            await may_go.wait()

    CLIENT.set(Slow("slow", 1))
    camera = Camera()
    work = asyncio.create_task(every(rig.stream(), camera))
    camera.send(1)
    await settle()
    camera.send(2)
    await settle()
    camera.end()
    may_go.set()
    rig.network.go.release()
    assert outcomes(await asyncio.wait_for(work, 30)) == [(1, "Dropped"), (2, "Poses")]
    assert rig.network.batches == [[2]]


async def test_latest_answers_a_frame_that_fails_and_goes_on(rig: Rig) -> None:
    rig.network.go.release(10)

    async def camera() -> AsyncIterator[StreamFrame]:
        for each in (frame(1), StreamFrame(2, b"not an image"), frame(3, timestamp=float("nan")), frame(4)):
            answered = len(answers)
            yield each
            while len(answers) == answered:
                await asyncio.sleep(0)

    answers: list[Answer] = []
    async for answer in rig.stream().answers(camera()):
        answers.append(answer)
    assert outcomes(answers) == [(1, "Poses"), (2, "Failed"), (3, "Failed"), (4, "Poses")]


async def test_all_drops_no_frames_and_holds_the_sender_back(rig: Rig) -> None:
    camera = Camera()
    work = asyncio.create_task(every(rig.stream(ALL), camera))
    camera.send(*range(1, 11))
    camera.end()
    await rig.network.has_begun()
    await settle()
    assert camera.taken == WINDOW
    rig.network.go.release(10)
    answers = await asyncio.wait_for(work, 30)
    assert outcomes(answers) == [(level, "Poses") for level in range(1, 11)]
    assert rig.network.batches == [[level] for level in range(1, 11)]


@pytest.mark.parametrize(("config", "pictures"), [(LATEST, 3), (ALL, WINDOW)])
async def test_a_stopped_reader_bounds_the_held_frames(rig: Rig, config: StreamConfig, pictures: int) -> None:
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
        assert taken <= 256
        assert sum(each() is not None for each in sent) <= pictures


async def test_a_frame_that_fails_is_reported_and_the_stream_continues(rig: Rig) -> None:
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


async def test_an_error_of_the_source_is_raised_after_the_last_answer(rig: Rig) -> None:
    camera = Camera()
    camera.send(1, 2)
    camera.end(InvalidArgument("enough"))
    rig.network.go.release(10)
    answers = []
    with pytest.raises(InvalidArgument, match="enough"):
        async for answer in rig.stream(ALL).answers(aiter(camera)):
            answers.append(answer)
    assert outcomes(answers) == [(1, "Poses"), (2, "Poses")]


@pytest.mark.parametrize("config", [LATEST, ALL])
async def test_a_drain_answers_the_accepted_frames(rig: Rig, config: StreamConfig) -> None:
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
    assert outcomes(answers) == [(1, "Poses"), (2, "Poses")]
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
        assert outcomes([await anext(answers)]) == [(2, "Poses")]
    await rig.close()


@pytest.mark.parametrize("config", [LATEST, ALL])
async def test_a_cancelled_stream_leaves_nothing_behind(rig: Rig, config: StreamConfig) -> None:
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
    assert outcomes(await every(rig.stream(), other)) == [(9, "Poses")]
    assert len(rig.network.batches) == 2  # what had begun, and the other stream's


@pytest.mark.parametrize("steps", range(4))
async def test_the_work_on_a_frame_survives_the_end_of_its_stream(rig: Rig, steps: int) -> None:
    """steps: of the event loop between the frame's answer and the end of the stream."""
    first, camera, stream = Camera(), Camera(), rig.stream()
    others = asyncio.create_task(every(rig.stream(), first))
    first.send(1)
    await rig.network.has_begun()
    answers = asyncio.create_task(every(stream, camera))
    camera.send(2)
    await settle()
    (work,) = stream._works  # it waits behind the frame that runs
    assert work.turn is not None
    assert work.task is not None
    work.turn.answer.set_exception(InferenceFailed("at the last moment"))
    for _ in range(steps):
        await asyncio.sleep(0)
    answers.cancel()
    first.end()
    rig.network.go.release(2)
    await asyncio.wait_for(asyncio.wait((others, answers, work.task)), 30)
    assert work.task.exception() is None


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
def test_invalid_configs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        StreamConfig(**wrong)  # type: ignore[arg-type]
