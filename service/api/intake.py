"""Admission before the body: a request has space for its body before it is received."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress

from service.errors import Overloaded, ReceiptTimeout

GRACE_S = 1.0  # in which no body is slow


class Held:
    """`size` reserved bytes for the body of a request, of which `received` bytes have arrived."""

    def __init__(self, intake: "Intake", size: int) -> None:
        self._intake, self.size, self.received = intake, size, 0
        self._begun, self._limit = 0.0, asyncio.timeout(None)
        self._gave_way = False

    def shrink(self, size: int) -> None:
        """Release the bytes above `size`."""
        self._intake.give(self.size - size)
        self.size = size

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """Limits the time in which the body arrives. Raises ReceiptTimeout, or Overloaded if it gives way."""
        timeout_s = self._intake.timeout_s
        self._begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s) as self._limit:
                self._intake.arriving[self] = None
                try:
                    yield
                finally:
                    del self._intake.arriving[self]
        except TimeoutError:
            if self._gave_way:
                raise Overloaded("the body arrived slowly, and others needed its space") from None
            raise ReceiptTimeout(f"the body did not arrive within {timeout_s:g} s") from None

    def is_slow(self) -> bool:
        """Whether the body, at its rate until now, will not be complete in time."""
        if self._gave_way or self._limit.expired():
            return False  # it ends anyway
        age = asyncio.get_running_loop().time() - self._begun
        return age > GRACE_S and self.received * self._intake.timeout_s < self.size * age

    def give_way(self) -> None:
        """End the request: its body is slow, and its bytes are needed."""
        self._gave_way = True
        self._limit.reschedule(0)


class Turns:
    """A lock that the hosts of clients get in turn, and the requests of a host in order of arrival."""

    def __init__(self) -> None:
        self.taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Holds the lock."""
        if self.taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(host, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it came at the same moment
                    self._pass_on()
                raise
        self.taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            host = next(iter(self._waiting))
            line = self._waiting.pop(host)
            turn = line.popleft()
            if line:
                self._waiting[host] = line  # it has its next turn after all others
            if not turn.done():  # otherwise the request has left
                return turn.set_result(None)
        self.taken = False


class Intake:
    """Admits requests from their heads.

    arrival: holds a request while it is received and answered, see `Estimator.image_arrival`. max_bytes:
    limit of a body. total_bytes: limit of all bodies together, at least max_bytes; requests wait for it,
    hosts take turns, and slow bodies give way. timeout_s: limit for the bytes to become free, and for the
    body to arrive.
    """

    def __init__(
        self,
        arrival: Callable[[], AbstractContextManager[None]],
        *,
        max_bytes: int,
        total_bytes: int,
        timeout_s: float,
    ) -> None:
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self.arriving: dict[Held, None] = {}  # oldest first
        self._arrival = arrival
        self._free = max(total_bytes, max_bytes)
        self._turns, self._freed = Turns(), asyncio.Event()

    @asynccontextmanager
    async def admitted(self, host: str, announced: int | None = None) -> AsyncIterator[Held]:
        """Reserves bytes for the body of a request while it is received and answered.

        host: of the client. announced: length of its body in bytes, if known; otherwise it holds max_bytes
        until `shrink`. Raises ShuttingDown or Overloaded.
        """
        with self._arrival():
            size = self.max_bytes if announced is None else min(announced, self.max_bytes)
            held = Held(self, await self._take(size, host))
            try:
                yield held
            finally:
                self.give(held.size)

    def give(self, size: int) -> None:
        """Release bytes."""
        self._free += size
        self._freed.set()

    async def _take(self, size: int, host: str) -> int:
        if self._free >= size and not self._turns.taken:  # nobody waits
            self._free -= size
            return size
        try:
            async with asyncio.timeout(self.timeout_s), self._turns.turn(host):
                while self._free < size:
                    self._freed.clear()
                    self._end_slow(size - self._free)
                    with suppress(TimeoutError):  # others become slow
                        await asyncio.wait_for(self._freed.wait(), GRACE_S)
                self._free -= size
        except TimeoutError:
            raise Overloaded("the space for request bodies is in use") from None
        return size

    def _end_slow(self, needed: int) -> None:
        """End slow bodies, oldest first, until they release `needed` bytes."""
        for held in list(self.arriving):
            if needed > 0 and held.is_slow():
                held.give_way()
                needed -= held.size
