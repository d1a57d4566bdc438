"""From encoded images to poses: the core of all protocols."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from time import perf_counter

from model.keypoints import COCO, Skeleton
from service.core.batching import Batcher, Turn
from service.core.stages import Done, Job
from service.errors import (
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    PoseError,
    ShuttingDown,
    WorkerLost,
)
from service.observability.tracing import stage_spans
from service.security.client import CLIENT
from service.types import Options, Picture, Poses, Timings


class Estimator:
    """Admits, queues and answers images.

    max_images: places, one for each image that has arrived and is not yet answered, those of streams apart.
    max_pixels: of one image. max_streams: open at once. skeleton: of the persons' keypoints.
    """

    def __init__(
        self,
        batcher: Batcher[Job, Done],
        *,
        max_images: int,
        max_pixels: int,
        timeout_s: float,
        max_streams: int,
        skeleton: Skeleton = COCO,
    ) -> None:
        self._batcher, self.skeleton = batcher, skeleton
        self._max_images, self.max_pixels, self._timeout_s = max_images, max_pixels, timeout_s
        self._max_streams = max_streams
        self._arriving = self._admitted = self._streams = 0
        self.draining = asyncio.Event()
        self._drained_by: float | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def estimate(
        self, images: Sequence[Picture], options: Options, *, timeout_s: float | None = None
    ) -> list[Poses]:
        """The poses of each image, or the failure of the first invalid image.

        timeout_s: the client's deadline, in addition to the service's. Raises any PoseError.
        """
        arrived = perf_counter()
        jobs = [Job(picture, options, arrived) for picture in images]
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return [poses for poses, _ in await self._answers(jobs, limit_s)]

    async def draw(self, image: Picture, options: Options) -> tuple[Poses, bytes]:
        """The poses of an image, and a JPEG of the image with the skeletons. Raises any PoseError."""
        job = Job(image, options, perf_counter(), drawn=True)
        (answer,) = await self._answers([job], self._timeout_s)
        return answer

    def enter(self, job: Job, source: Hashable) -> Turn[Job, Done]:
        """A turn in the queue for a frame of a stream that has a place.

        source: sources take turns in the queue. Raises WorkerLost or ShuttingDown.
        """
        return self._batcher.enter(job, source)

    async def answer(self, turn: Turn[Job, Done]) -> Poses:
        """The poses of the frame that the turn holds when a runner takes it. Raises any PoseError."""
        async with _deadline(self._timeout_s):
            done = await self._batcher.result(turn)
        return _poses(turn.item, done)

    @contextmanager
    def stream_place(self) -> Iterator[None]:
        """Takes a place for a stream. Raises ShuttingDown or Overloaded."""
        self._check_open()
        self._check_stream_places()
        self._streams += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._streams -= 1
            self._check_idle()

    @contextmanager
    def image_arrival(self) -> Iterator[None]:
        """Makes `drain` wait for a request that is received and answered. It takes no place yet.

        Raises ShuttingDown, or Overloaded when no place is free.
        """
        self._check_open()
        self._check_places(1)
        with self._arrival():
            yield

    @contextmanager
    def video_arrival(self) -> Iterator[None]:
        """The same for a video, which becomes a stream."""
        self._check_open()
        self._check_stream_places()
        with self._arrival():
            yield

    def check_ready(self) -> None:
        """Raises ShuttingDown or WorkerLost if the service is not ready."""
        self._check_open()
        if not self._batcher.ready:
            raise WorkerLost

    @property
    def ready(self) -> bool:
        """Whether the service is ready: the worker is alive and it does not drain."""
        return self._batcher.ready and not self.draining.is_set()

    def readiness(self) -> AsyncIterator[bool]:
        """Whether the worker is alive: now, and after each change."""
        return self._batcher.readiness()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and wait until all admitted ones are answered.

        All calls together wait at most timeout_s from the first call on.
        """
        self.draining.set()
        self._drained_by = self._drained_by or asyncio.get_running_loop().time() + timeout_s
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._drained_by):
                await self._idle.wait()

    @contextmanager
    def _arrival(self) -> Iterator[None]:
        self._arriving += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._arriving -= 1
            self._check_idle()

    @contextmanager
    def _places(self, count: int) -> Iterator[None]:
        """Takes places for `count` images. Raises Overloaded."""
        self._check_places(count)
        self._admitted += count
        try:
            yield
        finally:
            self._admitted -= count

    async def _answers(self, jobs: Sequence[Job], timeout_s: float) -> list[tuple[Poses, bytes]]:
        """The poses and the drawing of each image of a request. Raises any PoseError."""
        if len(jobs) > self._max_images:
            raise InvalidArgument(f"{len(jobs)} images are more than the limit of {self._max_images}")
        with self._places(len(jobs)):
            if (client := CLIENT.get()) is not None:
                client.debit(len(jobs) - 1)  # the request itself took one
            async with _deadline(min(self._timeout_s, timeout_s)):
                outcomes = await self._batcher.submit(jobs, object())  # each request is its own source
        return [(_poses(job, done), done.drawing) for job, done in zip(jobs, _every(outcomes), strict=True)]

    def _check_open(self) -> None:
        if self.draining.is_set():
            raise ShuttingDown("the service is shutting down")

    def _check_places(self, count: int) -> None:
        if self._admitted + count > self._max_images:
            raise Overloaded(f"all {self._max_images} places are taken")

    def _check_stream_places(self) -> None:
        if self._streams >= self._max_streams:
            raise Overloaded(f"all {self._max_streams} places for streams are taken")

    def _check_idle(self) -> None:
        if not self._arriving and not self._streams:
            self._idle.set()


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Raises DeadlineExceeded if its block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceeded(f"no answer within {seconds:.3g} s") from None


def _poses(job: Job, done: Done) -> Poses:
    """The poses of an image, with the timings until now."""
    arrived, estimate = job.arrived, done.estimate
    posing = done.decoded + estimate.detect
    stage_spans(
        queue=(arrived, done.begun),
        decode=(done.begun, done.decoded),
        detect=(done.decoded, posing),
        pose=(posing, posing + estimate.pose),
    )
    timings = Timings(
        decode=round(done.decoded - done.begun, 6),
        queue=round(done.begun - arrived, 6),
        detect=round(estimate.detect, 6),
        pose=round(estimate.pose, 6),
        other=0,
    )
    return Poses(done.width, done.height, estimate.persons, timings.of(perf_counter() - arrived))


def _every(outcomes: Iterable[Done | PoseError]) -> Iterator[Done]:
    """All results in order. Raises the first failure, with the index of its image."""
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, PoseError):
            raise outcome.at(index) from outcome
        yield outcome
