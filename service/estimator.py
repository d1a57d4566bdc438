"""From encoded images to poses: the one core under both protocols."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import TypeVar

from service.batching import Batcher
from service.errors import DeadlineExceeded, InvalidArgument, Overloaded, PoseError, ShuttingDown
from service.image import decode, read_size
from service.types import Estimate, Frame, Options, Poses, Timings

T = TypeVar("T")
_DECODED_IMAGES = 4  # of the largest size allowed; this bounds the memory of decoded images


class Estimator:
    """Admits, decodes, batches and answers.

    max_images: images admitted and not yet answered. max_pixels: of one image.
    """

    def __init__(
        self,
        batcher: Batcher[Frame, Estimate],
        decoders: Executor,
        *,
        max_images: int,
        max_pixels: int,
        timeout_s: float,
    ) -> None:
        self._batcher, self._decoders = batcher, decoders
        self._max_images, self._max_pixels, self._timeout_s = max_images, max_pixels, timeout_s
        self._admitted = 0
        self._free_pixels = _DECODED_IMAGES * max_pixels
        self._pixels_freed = asyncio.Event()
        self.draining = asyncio.Event()

    async def estimate(
        self,
        images: Sequence[bytes],
        options: Options,
        *,
        source: Hashable = None,
        timeout_s: float | None = None,
    ) -> list[Poses]:
        """The poses of each image, or the failure of the first bad one.

        source: sources take turns in the queue; each image is its own unless one is given.
        timeout_s: the caller's own limit, beside the service's. Raises any PoseError.
        """
        timeout = min(self._timeout_s, self._timeout_s if timeout_s is None else timeout_s)
        with self._admit(len(images)):
            try:
                async with asyncio.timeout(timeout):
                    return await _every(
                        self._estimate(data, pixels, options, object() if source is None else source)
                        for data, pixels in zip(images, self._sizes(images), strict=True)
                    )
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {timeout:.3g} s") from None

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
        try:
            yield
        finally:
            self._admitted -= count

    def _sizes(self, images: Sequence[bytes]) -> list[int]:
        """Pixels of each image, by its header. Raises InvalidImage or ImageTooLarge with the index."""
        sizes = []
        for index, data in enumerate(images):
            try:
                width, height = read_size(data, self._max_pixels)
            except PoseError as error:
                raise error.at(index) from error
            sizes.append(width * height)
        return sizes

    async def _estimate(self, data: bytes, pixels: int, options: Options, source: Hashable) -> Poses:
        arrived = perf_counter()
        async with self._room(pixels):
            start = perf_counter()
            image = await asyncio.get_running_loop().run_in_executor(self._decoders, decode, data)
            decode_s = perf_counter() - start
            estimate, waited = await self._batcher.submit(Frame(image, options), source)
        seconds = decode_s, waited + start - arrived, estimate.detect, estimate.pose
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
