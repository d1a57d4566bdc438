"""A camera's stream: exactly one answer for each frame, in order, with bounded memory."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import perf_counter

from service.core.batching import Turn
from service.core.estimator import Estimator
from service.core.stages import Done, Job
from service.errors import InferenceFailed, InvalidArgument, PoseError, ShuttingDown
from service.observability.access_log import named_client, observed_call
from service.observability.metrics import STREAM_FRAMES, STREAMS
from service.security.client import CLIENT
from service.streaming.camera import Camera
from service.streaming.frames import (
    KINDS,
    Answer,
    Counts,
    Dropped,
    Failed,
    Outcome,
    Policy,
    StreamConfig,
    StreamFrame,
)
from service.streaming.scene import Scene, view_of
from service.types import Image, Known, Poses

logger = logging.getLogger(__name__)
WINDOW = 4  # frames of a stream in the service under Policy.ALL, with their images
_MAX_WAITING = 256  # frames whose answers wait for a slow reader under Policy.LATEST; only one holds an image


@dataclass(slots=True, eq=False)
class _Entry:
    """A frame without an answer. arrived: in seconds of `perf_counter`; time: when it was captured."""

    frame_id: int
    timestamp: float | None
    time: float
    arrived: float
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    detected: bool = True  # its boxes come from the detector
    view: Image | None = None  # to be kept with its persons


@dataclass(slots=True, eq=False)
class _Work:
    """The work on one frame: `job` belongs to `entry`; a newer frame replaces both until a runner takes the
    job.

    turn: its place in the queue, if it has one. task: the task that does the work, if it has been started.
    """

    entry: _Entry
    job: Job
    turn: Turn[Job, Done] | None = None
    task: asyncio.Task[None] | None = None

    def replace(self, entry: _Entry, job: Job) -> bool:
        """Work on a newer frame instead and drop the old one. Returns False when it is too late."""
        if self.turn is not None and not self.turn.replace(job):
            return False
        self.entry.outcome.set_result(Dropped("superseded"))
        self.entry, self.job = entry, job
        return True


class Stream:
    """One stream. `counts` has the answers so far."""

    def __init__(self, estimator: Estimator, config: StreamConfig, *, api: str, ident: str) -> None:
        """api, ident: labels of its frames in metrics and logs."""
        self.counts = Counts()
        self._estimator, self._config = estimator, config
        self._api, self._ident = api, ident
        self._camera = Camera(
            smoothing=config.smoothing, detect_every=config.detect_every, skeleton=estimator.skeleton
        )
        self._scene = Scene() if config.skip_unchanged else None
        self._entries: deque[_Entry] = deque()  # frames without an answer, in order
        self._works: deque[_Work] = deque()  # of the frames that are neither answered nor dropped, in order
        self._limit = WINDOW if config.policy is Policy.ALL else _MAX_WAITING
        self._entered, self._left = asyncio.Event(), asyncio.Event()
        self._ended = False
        self._failure: PoseError | None = None

    async def answers(self, frames: AsyncIterator[StreamFrame]) -> AsyncGenerator[Answer, None]:
        """Answers to all frames read from `frames`, in order. Close it if it is not read to its end.

        Raises Overloaded when there is no place for another stream. After the last answer it raises what
        `frames` raised, or ShuttingDown when the service drains.
        """
        with self._estimator.stream_place(), STREAMS.labels(self._api).track_inprogress():
            reader = asyncio.create_task(self._read(frames))
            watch = asyncio.create_task(self._stop_at_drain(reader))
            try:
                while (entry := await self._first()) is not None:
                    yield self._answer(entry, await self._outcome(entry))
                    self._entries.popleft()
                    self._left.set()
                if self._failure is not None:
                    raise self._failure
            finally:
                tasks = [reader, watch, *(work.task for work in self._works if work.task is not None)]
                for task in tasks:
                    task.cancel()
                self._log_end()  # before the wait, which may be cancelled
                await asyncio.gather(*tasks, return_exceptions=True)

    def _log_end(self) -> None:
        about = {"request_id": self._ident, "api": self._api, "camera_id": self._config.camera_id}
        logger.info("stream ended", extra={**about, **named_client(), **asdict(self.counts)})

    async def _read(self, frames: AsyncIterator[StreamFrame]) -> None:
        """Reads a frame whenever there is room for one. Every frame that is read is answered."""
        try:
            while True:
                while len(self._entries) >= self._limit:
                    self._left.clear()
                    await self._left.wait()
                self._enter(await anext(frames))
        except StopAsyncIteration:
            pass
        except PoseError as error:
            self._failure = error
        except Exception:
            logger.exception("a stream cannot be read", extra={"request_id": self._ident})
            self._failure = InferenceFailed("the stream cannot be read")
        finally:
            self._ended = True
            self._entered.set()

    async def _stop_at_drain(self, reader: asyncio.Task[None]) -> None:
        await self._estimator.draining.wait()
        if not self._ended:
            self._failure = ShuttingDown("the service is shutting down")
            reader.cancel()

    def _enter(self, frame: StreamFrame) -> None:
        time = asyncio.get_running_loop().time() if frame.timestamp is None else frame.timestamp
        entry = _Entry(frame.frame_id, frame.timestamp, time, perf_counter())
        job = Job(frame.picture, self._config.options, entry.arrived, partial(self._known, entry))
        if self._config.policy is Policy.ALL:
            self._works.append(_Work(entry, job))
            self._start(self._works[-1])
        elif not (self._works and self._works[-1].replace(entry, job)):
            self._works.append(_Work(entry, job))
        self._entries.append(entry)
        self._entered.set()

    async def _first(self) -> _Entry | None:
        """The next frame to answer; None at the end."""
        while not self._entries and not self._ended:
            self._entered.clear()
            await self._entered.wait()
        return self._entries[0] if self._entries else None

    async def _outcome(self, entry: _Entry) -> Outcome:
        """The outcome of the first frame. Under Policy.LATEST the work on it starts only now."""
        if self._works and (work := self._works[0]).entry is entry and work.task is None:
            self._start(work)
        await asyncio.wait((entry.outcome,))  # a cancelled `await` would cancel the outcome too
        return entry.outcome.result()

    def _start(self, work: _Work) -> None:
        before = self._works[-2] if len(self._works) > 1 else None
        work.task = asyncio.create_task(self._work(work, before.task if before else None))

    async def _work(self, work: _Work, before: asyncio.Task[None] | None) -> None:
        """Sets the outcome of the frame after that of the previous frame."""
        try:
            outcome: Outcome = await self._poses(work, before)
        except PoseError as error:
            outcome = Failed(error.code, str(error))
        except Exception:  # the stream waits for an outcome
            logger.exception("a frame failed", extra={"request_id": self._ident})
            failure = InferenceFailed()
            outcome = Failed(failure.code, str(failure))
        await _finished(before)
        self._works.popleft()
        work.entry.outcome.set_result(outcome)

    async def _poses(self, work: _Work, before: asyncio.Task[None] | None) -> Poses:
        """The poses of a frame; logs and measures the frame. Raises any PoseError."""
        if (client := CLIENT.get()) is not None:
            await client.wait_for_token()
        if self._config.detect_every > 1:
            await _finished(before)  # the boxes come from the previous frame
        since = work.entry.arrived
        with observed_call(self._api, self._ident, level=logging.DEBUG, since=since) as access:
            work.turn = self._estimator.enter(work.job, self)
            try:
                poses = await self._estimator.answer(work.turn)
            finally:
                entry = work.entry  # a newer frame may have replaced it
                access.since = entry.arrived
            if self._scene is not None and entry.view is not None and entry.detected:
                self._scene.keep(entry.view, poses.persons, entry.arrived)
            await _finished(before)
            if self._config.tracking:
                update = partial(self._camera.update, poses.persons, entry.time, detected=entry.detected)
                poses = replace(poses, persons=await asyncio.to_thread(update))
            timings = poses.timings.of(perf_counter() - entry.arrived)
            poses = replace(poses, timings=timings)
            access.poses = [poses]
        return poses

    def _known(self, entry: _Entry, image: Image) -> Known:
        """What is known of the persons; a runner calls it with the frame's image. Raises InvalidArgument."""
        if not math.isfinite(entry.time):
            raise InvalidArgument("the timestamp is not a finite number")
        if self._scene is not None:
            view = view_of(image)
            if (persons := self._scene.persons(view, entry.arrived)) is not None:
                return persons
            entry.view = view
        if self._config.detect_every == 1:
            return None
        boxes = self._camera.boxes(entry.time)
        entry.detected = boxes is None
        return boxes

    def _answer(self, entry: _Entry, outcome: Outcome) -> Answer:
        STREAM_FRAMES.labels(self._config.policy, KINDS[type(outcome)]).inc()
        self.counts = self.counts.with_one(outcome)
        return Answer(entry.frame_id, outcome, self.counts, entry.timestamp)


async def _finished(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await asyncio.wait((task,))
