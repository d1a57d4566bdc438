"""Streams whose network and camera are controlled by the test."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from service.core.batching import Batcher
from service.core.estimator import Estimator
from service.core.stages import Stages
from service.streaming.frames import Answer, Policy, StreamConfig, StreamFrame
from service.streaming.stream import Stream
from service.types import Boxes, InferenceInput, InferenceResult, RawImage
from tests.streaming.test_tracking import person

LATEST, ALL = StreamConfig(), StreamConfig(policy=Policy.ALL)


class Network:
    """Finds a person in every frame that is not dark; each batch waits until the test releases it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # the brightness of their frames
        self.boxes: list[Boxes | None] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        self.batches.append([int(frame.image[0, 0, 0]) for frame in frames])
        self.boxes += [frame.boxes for frame in frames]
        self.begun.release()
        assert self.go.acquire(timeout=30)
        if any(frame.image[0, 0, 0] == 255 for frame in frames):
            raise ValueError("too bright")
        return [self._estimate(frame) for frame in frames]

    def _estimate(self, frame: InferenceInput) -> InferenceResult:
        level = int(frame.image[0, 0, 0])
        return InferenceResult((person(level),) if level else (), crops=1, detect=0, pose=0)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


class Rig:
    """A network controlled by the test, behind a batcher and an estimator."""

    def __init__(self, max_streams: int = 4) -> None:
        self.network = Network()
        self._decoders = ThreadPoolExecutor(2)
        self.batcher = Batcher(Stages(self.network, self._decoders, max_pixels=1000).run)
        self.estimator = Estimator(
            self.batcher,
            max_images=1,
            max_pixels=1000,
            timeout_s=30,
            max_streams=max_streams,
        )

    def stream(self, config: StreamConfig = LATEST) -> Stream:
        return Stream(self.estimator, config, api="test", ident="x")

    async def close(self) -> None:
        self.network.go.release(1000)
        await self.batcher.close()
        self._decoders.shutdown()


class Camera:
    """Sends frames on command; `taken` counts those that the stream accepted."""

    def __init__(self) -> None:
        self.taken = 0
        self._queue: asyncio.Queue[StreamFrame | Exception | None] = asyncio.Queue()

    def send(self, *levels: int) -> None:
        """Send frames with these brightnesses, which are also their ids."""
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
    """Let every task run until it waits for the network."""
    for _ in range(20):
        await asyncio.sleep(0)


def outcomes(answers: Iterable[Answer]) -> list[tuple[int, str]]:
    """Ids and outcomes of the frames."""
    return [(each.frame_id, type(each.outcome).__name__) for each in answers]


async def every(stream: Stream, camera: Camera) -> list[Answer]:
    return [answer async for answer in stream.answers(aiter(camera))]
