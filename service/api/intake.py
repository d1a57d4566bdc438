"""Admission before the body: a request gets a place, and memory for its body, before it is received."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from service.core.estimator import Estimator
from service.errors import Overloaded, ReceiptTimeout


class Held:
    """The resources of a request: one place of an admitted image, and `size` bytes of memory."""

    def __init__(self, intake: "Intake", size: int) -> None:
        self._intake, self.size = intake, size

    def shrink(self, size: int) -> None:
        """Release the memory above `size` bytes."""
        self._intake.give(self.size - size)
        self.size = size


class Intake:
    """Admits requests from their heads.

    max_bytes: limit of a body. memory_bytes: limit of all bodies in memory, at least max_bytes; requests
    wait for it in order of arrival. timeout_s: limit for the memory to become free, and for the body to
    arrive.
    """

    def __init__(self, estimator: Estimator, *, max_bytes: int, memory_bytes: int, timeout_s: float) -> None:
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._estimator = estimator
        self._free = max(memory_bytes, max_bytes)
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def admitted(self, announced: int | None = None) -> AsyncIterator[Held]:
        """Holds the resources of a request while it is received and answered.

        announced: length of its body in bytes, if known; otherwise it holds max_bytes until `shrink`.
        Raises ShuttingDown or Overloaded.
        """
        with self._estimator.admit(1):
            size = self.max_bytes if announced is None else min(announced, self.max_bytes)
            held = Held(self, await self._take(size))
            try:
                yield held
            finally:
                self.give(held.size)

    def receiving(self) -> AbstractAsyncContextManager[None]:
        """Limits the time in which a body arrives. Raises ReceiptTimeout."""
        return receiving(self.timeout_s)

    def give(self, size: int) -> None:
        """Release memory."""
        self._free += size
        self._freed.set()

    async def _take(self, size: int) -> int:
        try:
            async with asyncio.timeout(self.timeout_s), self._turn:
                while self._free < size:
                    self._freed.clear()
                    await self._freed.wait()
                self._free -= size
        except TimeoutError:
            raise Overloaded("the memory for request bodies is in use") from None
        return size


@asynccontextmanager
async def receiving(timeout_s: float) -> AsyncIterator[None]:
    """Limits the time in which a body arrives. Raises ReceiptTimeout."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise ReceiptTimeout(f"the body did not arrive within {timeout_s:g} s") from None
