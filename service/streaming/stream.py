"""A camera's stream: frames in, exactly one answer for each, in order, in bounded memory."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass, replace

from service.core.estimator import Estimator
from service.errors import InferenceFailed, InvalidArgument, PoseError, ShuttingDown
from service.observability.access_log import named_caller, observed_call
from service.observability.metrics import STREAM_FRAMES, STREAMS
from service.security.caller import CALLER
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
from service.types import Boxes, Picture, Poses

logger = logging.getLogger(__name__)
_MAX_WAITING = 256  # frames whose answers wait for a slow reader under Policy.LATEST; one holds a picture


@dataclass(slots=True, eq=False)
class _Entry:
    """A frame without an answer. Neither picture nor work: it was dropped."""

    frame_id: int
    timestamp: float | None
    time: float
    picture: Picture | None
    work: asyncio.Task[Poses] | None = None


class Stream:
    """One stream. `counts` holds what has been answered."""

    def __init__(self, estimator: Estimator, config: StreamConfig, *, api: str, ident: str) -> None:
        """api, ident: the names under which its frames are recorded."""
        self.counts = Counts()
        self._estimator, self._config = estimator, config
        self._api, self._ident = api, ident
        self._camera = Camera(smoothing=config.smoothing, detect_every=config.detect_every)
        self._entries: deque[_Entry] = deque()  # without an answer, in order
        self._limit = estimator.stream_window if config.policy is Policy.ALL else _MAX_WAITING
        self._entered, self._left = asyncio.Event(), asyncio.Event()
        self._ended = False
        self._failure: PoseError | None = None

    async def answers(self, frames: AsyncIterator[StreamFrame]) -> AsyncGenerator[Answer, None]:
        """Answers to all frames taken from `frames`, in order. Close it when it is not read to its end.

        Raises Overloaded when there is no place for another stream; once all frames taken are answered, what
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
                work = [entry.work for entry in self._entries if entry.work is not None]
                for task in (reader, watch, *work):
                    task.cancel()
                self._log_end()  # first, as the wait may be cut short
                await asyncio.gather(reader, watch, *work, return_exceptions=True)

    def _log_end(self) -> None:
        about = {"request_id": self._ident, "api": self._api, "camera_id": self._config.camera_id}
        logger.info("stream ended", extra={**about, **named_caller(), **asdict(self.counts)})

    async def _read(self, frames: AsyncIterator[StreamFrame]) -> None:
        """Takes a frame whenever there is room for one; what is taken is answered."""
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
        entry = _Entry(frame.frame_id, frame.timestamp, time, frame.picture)
        if self._config.policy is Policy.ALL:
            entry.work = self._start(frame.picture, time)
        elif self._entries:
            self._entries[-1].picture = None
        self._entries.append(entry)
        self._entered.set()

    async def _first(self) -> _Entry | None:
        """The frame to answer next; None at the end."""
        while not self._entries and not self._ended:
            self._entered.clear()
            await self._entered.wait()
        return self._entries[0] if self._entries else None

    def _start(self, picture: Picture, time: float) -> asyncio.Task[Poses]:
        """Work on a frame, beside the one before it where that is not done."""
        before = self._entries[-1].work if self._entries else None
        return asyncio.create_task(self._estimate(picture, time, before))

    async def _outcome(self, entry: _Entry) -> Outcome:
        if entry.work is None:
            if entry.picture is None:
                return Dropped("superseded")
            entry.work = self._start(entry.picture, entry.time)
        try:
            return await entry.work
        except PoseError as error:
            return Failed(error.code, str(error))

    async def _estimate(self, picture: Picture, time: float, before: asyncio.Task[Poses] | None) -> Poses:
        """The poses of a frame, on record. Raises PoseError and nothing else."""
        detected = True

        async def boxes() -> Boxes | None:
            nonlocal detected
            if self._config.detect_every == 1:
                return None
            await _finished(before)
            given = self._camera.boxes(time)
            detected = given is None
            return given

        if (caller := CALLER.get()) is not None:
            await caller.turn()
        with observed_call(self._api, self._ident, level=logging.DEBUG) as access:
            if not math.isfinite(time):
                raise InvalidArgument("the timestamp is not a finite number")
            poses = await self._estimator.estimate_frame(picture, self._config.options, self, boxes)
            await _finished(before)
            if self._config.tracking:
                poses = replace(poses, persons=self._camera.update(poses.persons, time, detected=detected))
            access.poses = [poses]
        return poses

    def _answer(self, entry: _Entry, outcome: Outcome) -> Answer:
        STREAM_FRAMES.labels(self._config.policy, KINDS[type(outcome)]).inc()
        self.counts = self.counts.with_one(outcome)
        return Answer(entry.frame_id, outcome, self.counts, entry.timestamp)


async def _finished(work: asyncio.Task[Poses] | None) -> None:
    if work is not None:
        await asyncio.wait((work,))
