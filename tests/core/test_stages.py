"""What a runner does with images: stage times that add up, bounded memory, every processor at work."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import service.app
import service.core.stages
import service.inference.pipeline
from service.config import Settings
from service.core.batching import Batcher
from service.core.drawing import draw
from service.core.estimator import Estimator
from service.core.image import decode
from service.core.memory import PixelMemory
from service.core.stages import Done, Job, Stages
from service.errors import InvalidImage
from service.inference.runtime import open_session
from service.inference.session import Session
from service.observability.metrics import BATCH_IMAGES
from service.types import Floats, Image, InferenceInput, InferenceResult, Options, Person, Timings
from tests.support.service import Pixels, encode

DETECT_S, POSE_S = 0.02, 0.03


def sleeping(frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
    """Networks that only take their time, the same for one frame as for many."""
    start = time.perf_counter()
    time.sleep(DETECT_S)
    between = time.perf_counter()
    time.sleep(POSE_S)
    end = time.perf_counter()
    return [InferenceResult((), crops=0, detect=between - start, pose=end - between) for _ in frames]


@asynccontextmanager
async def estimator(infer: Any, *, runners: int, max_batch: int) -> AsyncIterator[Estimator]:
    with ThreadPoolExecutor(4) as decoders:
        stages = Stages(infer, decoders, max_pixels=10**6)
        batcher = Batcher[Job, Done](stages.run, runners=runners, max_batch=max_batch)
        limits = {"max_images": 100, "max_pixels": 10**6, "max_streams": 1}
        yield Estimator(batcher, timeout_s=60, **limits)  # type: ignore[arg-type]
        await batcher.close()


@pytest.mark.parametrize(("runners", "max_batch"), [(1, 1), (3, 1), (2, 8)])
async def test_stage_times_add_up_to_the_time_in_the_service(
    small: bytes, runners: int, max_batch: int
) -> None:
    async with estimator(sleeping, runners=runners, max_batch=max_batch) as core:

        async def ask() -> tuple[Timings, float]:
            start = time.perf_counter()
            (poses,) = await core.estimate([small], Options())
            return poses.timings, time.perf_counter() - start

        answers = await asyncio.gather(*(ask() for _ in range(24)))
    for timings, seconds in answers:
        assert timings.detect >= DETECT_S and timings.pose >= POSE_S
        total = timings.decode + timings.queue + timings.detect + timings.pose + timings.other
        assert total <= seconds + 1e-4
        assert total >= 0.8 * seconds
    # the stages are named: what is left is little
    assert sum(timings.other for timings, _ in answers) < 0.2 * sum(seconds for _, seconds in answers)
    longest = max(timings.queue for timings, _ in answers)
    rounds = 24 / (runners * max_batch)
    assert longest >= 0.9 * (rounds - 1) * (DETECT_S + POSE_S)


async def test_bad_images_of_a_batch_fail_alone(small: bytes) -> None:
    async with estimator(sleeping, runners=1, max_batch=8) as core:
        pictures = [small, b"no image", small[: len(small) // 2], small]
        outcomes = await asyncio.gather(
            *(core.estimate([each], Options()) for each in pictures), return_exceptions=True
        )
    assert [type(each) for each in outcomes] == [list, InvalidImage, InvalidImage, list]


def test_memory_is_given_first_come_first_served() -> None:
    memory, order = PixelMemory(10), []
    entered: list[threading.Event] = []
    leave = threading.Event()

    def take(pixels: int) -> None:
        with memory.room(pixels):
            order.append(pixels)
            entered[len(order) - 1].set()
            assert leave.wait(30)

    entered += [threading.Event() for _ in range(4)]
    threads = []
    for pixels in (5, 100, 1, 2):  # the second asks for more than there is: for all
        threads.append(threading.Thread(target=take, args=(pixels,)))
        threads[-1].start()
        waiting = len(threads) - 1
        while len(memory._waiting) != waiting or not entered[0].is_set():
            pass
    assert order == [5]  # though there is room for the third and the fourth
    leave.set()
    for thread in threads:
        thread.join(30)
    assert order == [5, 100, 1, 2]
    assert memory._free == 10


def test_no_more_pixels_are_decoded_than_there_is_room_for(pixels: Pixels) -> None:
    most, now, lock = 0, 0, threading.Lock()

    def infer(frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        nonlocal most, now
        with lock:
            now += sum(frame.image.shape[0] * frame.image.shape[1] for frame in frames)
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= sum(frame.image.shape[0] * frame.image.shape[1] for frame in frames)
        return [InferenceResult((), 0, 0, 0) for _ in frames]

    picture = encode(pixels[:200, :200])
    with ThreadPoolExecutor(16) as runners:
        stages = Stages(infer, runners, max_pixels=200 * 200)
        jobs = [[Job(picture, Options(), 0)] for _ in range(64)]
        outcomes = [outcome for (outcome,) in runners.map(stages.run, jobs)]
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert most == 4 * 200 * 200


async def test_memory_is_taken_until_the_work_is_done_though_its_caller_has_left(small: bytes) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow_decode(picture: bytes, rotate: int) -> Image:
        begun.set()
        assert go.wait(30)
        return decode(picture, rotate)

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(1) as decoders:
        patched.setattr(service.core.stages, "decode", slow_decode)
        stages = Stages(sleeping, decoders, max_pixels=10**6)
        batcher = Batcher[Job, Done](stages.run)
        work = asyncio.create_task(batcher.submit([Job(small, Options(), 0)], "caller"))
        assert await asyncio.to_thread(begun.wait, 30)
        work.cancel()
        await asyncio.wait([work])
        assert stages._memory._free == 4 * 10**6 - 128 * 128
        go.set()
        await batcher.close()
        assert stages._memory._free == 4 * 10**6


async def test_a_drawing_decodes_its_image_once_and_within_the_memory(
    small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Image] = []
    free: list[int] = []

    def counting_decode(picture: bytes, rotate: int) -> Image:
        decoded.append(decode(picture, rotate))
        return decoded[-1]

    def watching_draw(image: Image, persons: Sequence[Person], *options: Any) -> bytes:
        assert image is decoded[-1]
        free.append(stages._memory._free)
        return draw(image, persons, *options)

    monkeypatch.setattr(service.core.stages, "decode", counting_decode)
    monkeypatch.setattr(service.core.stages, "draw", watching_draw)
    with ThreadPoolExecutor(1) as decoders:
        stages = Stages(sleeping, decoders, max_pixels=10**6)
        (done,) = stages.run([Job(small, Options(rotate=90), 0, drawn=True)])
    assert isinstance(done, Done)
    assert decode(done.drawing).shape == (128, 128, 3)
    assert len(decoded) == 1
    assert free == [4 * 10**6 - 128 * 128]


def test_without_decoders_a_runner_decodes_its_batch(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def watching_decode(picture: bytes, rotate: int) -> Image:
        threads.append(threading.current_thread())
        return decode(picture, rotate)

    monkeypatch.setattr(service.core.stages, "decode", watching_decode)
    outcomes = Stages(sleeping, None, max_pixels=10**6).run([Job(small, Options(), 0)] * 2)
    assert [type(each) for each in outcomes] == [Done, Done]
    assert threads == [threading.current_thread()] * 2


async def test_with_many_clients_a_processor_takes_two_images_at_once(
    networks: dict[bool, Path], small: bytes
) -> None:
    app = service.app.create_app(Settings(weights=networks[False], http_port=0, grpc_port=0, threads=2))
    async with app.router.lifespan_context(app):
        core: Estimator = app.state.estimator
        together = [*BATCH_IMAGES.collect()[0].samples]
        await asyncio.gather(*(core.estimate([small], Options()) for _ in range(32)))
        later = [*BATCH_IMAGES.collect()[0].samples]
    batches, images = (
        next(now.value - then.value for then, now in zip(together, later, strict=True) if then.name == name)
        for name in ("pose_batch_images_count", "pose_batch_images_sum")
    )
    assert images == 32 and 16 <= batches < 24


def test_a_batch_that_is_too_large_for_the_memory_runs_in_parts(small: bytes) -> None:
    batches: list[int] = []

    def infer(frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        batches.append(len(frames))
        return [InferenceResult((), crops=0, detect=0, pose=0) for _ in frames]

    with ThreadPoolExecutor(4) as decoders:
        stages = Stages(infer, decoders, max_pixels=128 * 128)
        jobs = [Job(picture, Options(), 0) for picture in (small, b"no image", *[small] * 7)]
        outcomes = stages.run(jobs)
    assert [type(each) for each in outcomes] == [Done, InvalidImage, *[Done] * 7]
    assert sum(batches) == 8 and max(batches) <= 4


class Meeting:
    """A network whose runs wait for each other."""

    batches = False

    def __init__(self, session: Session, barrier: threading.Barrier) -> None:
        self._session, self._barrier = session, barrier
        self.metadata: Mapping[str, str] = session.metadata
        self.runtime, self.precision = session.runtime, session.precision

    def run(self, images: Image) -> tuple[Floats, ...]:
        for _ in images:
            self._barrier.wait(60)
        return self._session.run(images)


async def test_sixteen_processors_work_at_the_same_time_with_default_settings(
    monkeypatch: pytest.MonkeyPatch, networks: dict[bool, Path], small: bytes
) -> None:
    barrier = threading.Barrier(16)

    def open_meeting(path: Path, task: Any, **options: Any) -> Session:
        session = open_session(path, task, **options)
        return Meeting(session, barrier) if task == "detector" else session

    monkeypatch.setattr(service.app, "available_cpus", lambda: 16)
    monkeypatch.setattr(service.inference.pipeline, "open_session", open_meeting)
    app = service.app.create_app(Settings(weights=networks[False], http_port=0, grpc_port=0))
    async with app.router.lifespan_context(app):
        core: Estimator = app.state.estimator
        answers = await asyncio.gather(*(core.estimate([small], Options()) for _ in range(32)))
    assert all(len(poses.persons) == 1 for (poses,) in answers)


async def test_a_lone_image_may_use_every_processor() -> None:
    alone_flags: list[bool] = []
    go = threading.Event()

    def infer(frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        alone_flags.append(alone)
        assert go.wait(30)
        return [InferenceResult((), 0, 0, 0) for _ in frames]

    async with estimator(infer, runners=4, max_batch=1) as core:
        picture = encode(np.zeros((8, 8, 3), np.uint8))
        works = [asyncio.create_task(core.estimate([picture], Options()))]
        while not alone_flags:
            await asyncio.sleep(0.001)
        works += [asyncio.create_task(core.estimate([picture], Options())) for _ in range(3)]
        while len(alone_flags) < 4:
            await asyncio.sleep(0.001)
        go.set()
        await asyncio.gather(*works)
        await core.estimate([picture], Options())
    assert alone_flags == [True, False, False, False, True]
