"""A stream that outlives its connections."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any, TypeAlias

import grpc
from grpc.aio import StreamStreamCall

from lgm_pose_client.errors import STATUS_LOST, service_error
from lgm_pose_client.frames import Answer, Counts, Failed, Outcome, StreamConfig, StreamFrame
from lgm_pose_client.messages import config_message, frame_message, read_answer

Call: TypeAlias = "StreamStreamCall[Any, Any]"
LOST = "connection_lost"
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0


class ReconnectingStream:
    """One stream over as many connections as it takes; between them it pauses, longer each time."""

    def __init__(self, open_call: Callable[[], Call], config: StreamConfig, give_up_s: float) -> None:
        """give_up_s: without a connection that answers, after which the failure is raised."""
        self._open_call, self._config, self._give_up_s = open_call, config, give_up_s
        self._counts = Counts()
        self._unanswered: deque[int] = deque()  # ids of the frames sent over this connection
        # what one connection did not take waits here for the next; None: there is no more
        self._frames: asyncio.Queue[StreamFrame | None] = asyncio.Queue(1)
        self._sent_all = False

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
                    if not _passes(error) or monotonic() - failing_since > self._give_up_s:
                        raise service_error(error) from error
                    await asyncio.sleep(0 if self._sent_all else next(pauses))
            await source
        finally:
            source.cancel()

    async def _take(self, frames: AsyncIterator[StreamFrame]) -> None:
        try:
            async for frame in frames:
                await self._frames.put(frame)
        except Exception:
            await self._frames.put(None)
            raise
        await self._frames.put(None)

    async def _connection(self) -> AsyncGenerator[Answer, None]:
        """The answers over one connection; it ends when all frames are answered, or by RpcError."""
        call = self._open_call()
        sender = asyncio.create_task(self._send(call))
        try:
            async for message in call:
                answer = read_answer(message)
                self._unanswered.popleft()
                yield self._counted(answer.frame_id, answer.outcome, answer.time)
        finally:
            sender.cancel()
            call.cancel()
            await asyncio.wait((sender,))

    async def _send(self, call: Call) -> None:
        # when it breaks, the reader of the answers learns why
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            await call.write(config_message(self._config))
            while (frame := await self._frames.get()) is not None:
                self._unanswered.append(frame.frame_id)
                await call.write(frame_message(frame))
            self._sent_all = True
            await call.done_writing()

    def _lose(self, error: grpc.RpcError) -> Iterator[Answer]:
        """Answers to the frames whose connection broke."""
        while self._unanswered:
            yield self._counted(self._unanswered.popleft(), Failed(LOST, error.details() or LOST))

    def _counted(self, frame_id: int, outcome: Outcome, time: float | None = None) -> Answer:
        self._counts = self._counts.with_one(outcome)
        return Answer(frame_id, outcome, self._counts, time)


def _passes(error: grpc.RpcError) -> bool:
    """Whether another connection may do better."""
    return error.code() in _TRANSIENT or error.details() == STATUS_LOST


def _pauses() -> Iterator[float]:
    """Seconds between attempts."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_S)
