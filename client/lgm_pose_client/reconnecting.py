"""A stream that outlives its connections."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from time import monotonic
from typing import Any, TypeAlias

import grpc
from grpc.aio import StreamStreamCall

from lgm_pose_client.clock import TimestampCheck
from lgm_pose_client.errors import STATUS_LOST, is_too_large, service_error
from lgm_pose_client.frames import Answer, Counts, Failed, Outcome, StreamConfig, StreamFrame
from lgm_pose_client.messages import config_message, frame_message, read_answer
from lgm_pose_client.pb import pose_pb2
from lgm_pose_client.types import Poses, TrackedPerson

Call: TypeAlias = "StreamStreamCall[Any, Any]"
Sent: TypeAlias = "tuple[int, float | None]"  # frame id, timestamp
LOST = "connection_lost"
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0


class ReconnectingStream:
    """One stream over several connections. The pauses between them grow."""

    def __init__(self, open_call: Callable[[], Call], config: StreamConfig, give_up_s: float) -> None:
        """give_up_s: without a connection that answers, after which the failure is raised."""
        self._open_call, self._config, self._give_up_s = open_call, config, give_up_s
        self._counts = Counts()
        self._unanswered: deque[Sent] = deque()  # the frames sent over this connection
        # what one connection did not take waits here for the next; None: no frame follows
        self._messages: asyncio.Queue[pose_pb2.EstimateStreamRequest | None] = asyncio.Queue(1)
        self._sent_all = False
        self._ids = TrackIds()

    async def answers(self, frames: AsyncIterator[StreamFrame]) -> AsyncGenerator[Answer, None]:
        """The answer to each frame, in order. Raises ServiceError, or what `frames` raises."""
        source = asyncio.create_task(self._take(frames))
        pauses, failing_since = _pauses(), None
        try:
            while not self._sent_all:
                try:
                    async with aclosing(self._connection()) as answers:
                        async for answer in answers:
                            pauses, failing_since = _pauses(), None
                            yield answer
                except grpc.RpcError as error:
                    for answer in self._lose(error):
                        yield answer
                    failing_since = failing_since or monotonic()
                    if not _is_transient(error) or monotonic() - failing_since > self._give_up_s:
                        raise service_error(error) from error
                    await asyncio.sleep(0 if self._sent_all else next(pauses))
            await source
        finally:
            source.cancel()

    async def _take(self, frames: AsyncIterator[StreamFrame]) -> None:
        """Converts frames to messages. A failure ends the stream after the frames before it are answered."""
        check = TimestampCheck(self._config)
        try:
            async for frame in frames:
                check.see(frame)
                if isinstance(frame.picture, bytes):
                    message = frame_message(frame)
                else:
                    message = await asyncio.to_thread(frame_message, frame)
                await self._messages.put(message)
        except Exception:
            await self._messages.put(None)
            raise
        await self._messages.put(None)

    async def _connection(self) -> AsyncGenerator[Answer, None]:
        """The answers over one connection; it ends when all frames are answered, or by RpcError."""
        call = self._open_call()
        self._ids.begin()
        sender = asyncio.create_task(self._send(call))
        try:
            async for message in call:
                frame_id, time = self._unanswered.popleft()
                yield self._counted(frame_id, self._ids.unique(read_answer(message).outcome), time)
        except asyncio.CancelledError:
            if sender.done() and not sender.cancelled() and (failure := sender.exception()):
                raise failure from None  # it cancelled the call
            raise
        finally:
            sender.cancel()
            call.cancel()
            await asyncio.wait((sender,))

    async def _send(self, call: Call) -> None:
        try:
            await call.write(config_message(self._config))
            while (message := await self._messages.get()) is not None:
                frame = message.frame
                time = frame.timestamp if frame.HasField("timestamp") else None
                self._unanswered.append((frame.frame_id, time))
                await call.write(message)
            self._sent_all = True
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the reader of the answers learns why
        except Exception:
            call.cancel()  # or the reader would wait without end
            raise

    def _lose(self, error: grpc.RpcError) -> Iterator[Answer]:
        """Answers to the frames whose connection broke."""
        while self._unanswered:
            frame_id, time = self._unanswered.popleft()
            yield self._counted(frame_id, Failed(LOST, error.details() or LOST), time)

    def _counted(self, frame_id: int, outcome: Outcome, time: float | None) -> Answer:
        self._counts = self._counts.with_one(outcome)
        return Answer(frame_id, outcome, self._counts, time)


class TrackIds:
    """Track ids that are never used again, though the service counts from 1 on each connection."""

    def __init__(self) -> None:
        self._highest = self._offset = 0

    def begin(self) -> None:
        """A connection begins: its ids follow those of the connection before."""
        self._offset = self._highest

    def unique(self, outcome: Outcome) -> Outcome:
        """An outcome of this connection with ids of the whole stream."""
        if not isinstance(outcome, Poses):
            return outcome
        persons = tuple(
            replace(person, track_id=person.track_id + self._offset)
            if isinstance(person, TrackedPerson)
            else person
            for person in outcome.persons
        )
        ids = [person.track_id for person in persons if isinstance(person, TrackedPerson)]
        self._highest = max(self._highest, *ids, 0)
        return replace(outcome, persons=persons)


def _is_transient(error: grpc.RpcError) -> bool:
    """Whether a new connection may help."""
    return (error.code() in _TRANSIENT and not is_too_large(error)) or error.details() == STATUS_LOST


def _pauses() -> Iterator[float]:
    """Seconds between attempts."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_S)
