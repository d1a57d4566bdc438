"""From encoded images to poses: the one core under both protocols."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from time import perf_counter
from typing import TypeVar

from service.core.batching import Batcher
from service.core.image import decode, read_size
from service.errors import (
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    PoseError,
    ShuttingDown,
    WorkerLost,
)
from service.observability.tracing import stage_spans
from service.security.caller import CALLER
from service.types import Boxes, Estimate, Frame, Options, Picture, Poses, RawImage, Timings

T = TypeVar("T")
_QUICK_BYTES = 2**16  # a header within so many is read at once; of more, beside the event loop
_DECODED_IMAGES = 4  # of the largest size allowed; this bounds the memory of decoded images


class Estimator:
    """Admits, decodes, batches and answers.

    max_images: images admitted and not yet answered, those of streams apart. max_pixels: of one image.
    max_streams: open at once. stream_window: frames of a stream that are worked on at once, at most.
    """

    def __init__(
        self,
        batcher: Batcher[Frame, Estimate],
        decoders: Executor,
        *,
        max_images: int,
        max_pixels: int,
        timeout_s: float,
        max_streams: int,
        stream_window: int,
    ) -> None:
        self._batcher, self._decoders = batcher, decoders
        self._max_images, self.max_pixels, self._timeout_s = max_images, max_pixels, timeout_s
        self._max_streams, self.stream_window = max_streams, stream_window
        self._admitted = self._streams = 0
        self._free_pixels = _DECODED_IMAGES * max_pixels
        self._pixels_freed = asyncio.Event()
        self.draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def estimate(
        self,
        images: Sequence[Picture],
        options: Options,
        *,
        source: Hashable = None,
        timeout_s: float | None = None,
    ) -> list[Poses]:
        """The poses of each image, or the failure of the first bad one.

        source: sources take turns in the queue; each call is its own unless one is given.
        timeout_s: the caller's own limit, beside the service's. Raises any PoseError.
        """
        source = object() if source is None else source
        timeout = min(self._timeout_s, self._timeout_s if timeout_s is None else timeout_s)
        with self._admit(len(images)):
            if (caller := CALLER.get()) is not None:
                caller.owe(len(images) - 1)  # the request itself is paid
            try:
                async with asyncio.timeout(timeout):
                    sizes = await self._sizes(images)
                    return await _every(
                        self._estimate(data, pixels, options, source)
                        for data, pixels in zip(images, sizes, strict=True)
                    )
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {timeout:.3g} s") from None

    async def estimate_frame(
        self,
        picture: Picture,
        options: Options,
        source: Hashable,
        boxes: Callable[[], Awaitable[Boxes | None]],
    ) -> Poses:
        """The poses of a frame of a stream, which has its place. Raises PoseError.

        source: as in `estimate`. boxes: where the persons are, asked for once the frame is decoded.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                pixels = await self._size(picture)
                return await self._estimate(picture, pixels, options, source, boxes)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:.3g} s") from None

    @contextmanager
    def stream_place(self) -> Iterator[None]:
        """A place for a stream. Raises ShuttingDown or Overloaded."""
        if self.draining.is_set():
            raise ShuttingDown("the service is shutting down")
        if self._streams >= self._max_streams:
            raise Overloaded(f"all {self._max_streams} places for streams are taken")
        self._streams += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._streams -= 1
            self._check_idle()

    def check_ready(self) -> None:
        """Raises ShuttingDown, or WorkerLost, while the service takes no work."""
        if self.draining.is_set():
            raise ShuttingDown("the service is shutting down")
        if not self._batcher.ready:
            raise WorkerLost

    @property
    def ready(self) -> bool:
        """Whether it takes work: it has a worker and does not drain."""
        return self._batcher.ready and not self.draining.is_set()

    def readiness(self) -> AsyncIterator[bool]:
        """Whether there is a worker: now, and after each change."""
        return self._batcher.readiness()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new work and wait until what was admitted is answered, but no longer than timeout_s."""
        self.draining.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)

    @contextmanager
    def _admit(self, count: int) -> Iterator[None]:
        """Places for `count` images. Raises ShuttingDown, InvalidArgument or Overloaded."""
        if self.draining.is_set():
            raise ShuttingDown("the service is shutting down")
        if count > self._max_images:
            raise InvalidArgument(f"{count} images are more than the {self._max_images} taken at once")
        if self._admitted + count > self._max_images:
            raise Overloaded(f"all {self._max_images} places are taken")
        self._admitted += count
        self._idle.clear()
        try:
            yield
        finally:
            self._admitted -= count
            self._check_idle()

    def _check_idle(self) -> None:
        if not self._admitted and not self._streams:
            self._idle.set()

    async def _sizes(self, images: Sequence[Picture]) -> list[int]:
        """Pixels of each image, by its header. Raises InvalidImage or ImageTooLarge with the index."""
        sizes = []
        for index, data in enumerate(images):
            try:
                sizes.append(await self._size(data))
            except PoseError as error:
                raise error.at(index) from error
        return sizes

    async def _size(self, picture: Picture) -> int:
        """Pixels of an image, by its header. Raises InvalidImage or ImageTooLarge."""
        if isinstance(picture, RawImage) or len(picture) <= _QUICK_BYTES:
            width, height = read_size(picture, self.max_pixels)
        else:
            loop = asyncio.get_running_loop()
            width, height = await loop.run_in_executor(self._decoders, read_size, picture, self.max_pixels)
        return width * height

    async def _estimate(
        self,
        data: Picture,
        pixels: int,
        options: Options,
        source: Hashable,
        boxes: Callable[[], Awaitable[Boxes | None]] | None = None,
    ) -> Poses:
        arrived = perf_counter()
        async with self._room(pixels):
            start = perf_counter()
            image = await asyncio.get_running_loop().run_in_executor(
                self._decoders, decode, data, options.rotate
            )
            decoded = perf_counter()
            frame = Frame(image, options, await boxes() if boxes else None)
            queued = perf_counter()
            estimate, waited = await self._batcher.submit(frame, source)
        begun = queued + waited
        posing = begun + estimate.detect
        stage_spans(
            decode=(start, decoded),
            queue=(queued, begun),
            detect=(begun, posing),
            pose=(posing, posing + estimate.pose),
        )
        seconds = decoded - start, waited + start - arrived, estimate.detect, estimate.pose
        timings = Timings(*(round(each, 6) for each in seconds))
        return Poses(image.shape[1], image.shape[0], estimate.persons, timings)

    @asynccontextmanager
    async def _room(self, pixels: int) -> AsyncIterator[None]:
        """Memory for a decoded image, waited for."""
        while self._free_pixels < pixels:
            self._pixels_freed.clear()
            await self._pixels_freed.wait()
        self._free_pixels -= pixels
        try:
            yield
        finally:
            self._free_pixels += pixels
            self._pixels_freed.set()


async def _every(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results in order; when some fail, once all are done, the failure of the first, with its index."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, PoseError):
            raise outcome.at(index) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
