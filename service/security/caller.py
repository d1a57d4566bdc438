"""Who asks, and how much of its rate is left."""

import asyncio
from contextvars import ContextVar
from math import ceil
from time import monotonic

from service.errors import RateLimited

_BURST_S = 2  # what a caller has not used of its rate is kept for so long


class Caller:
    """The holder of a key. name: of the key, for the log.

    per_second: requests, images and frames together, 0 for any number. It is a token bucket that may be owed
    to: what has begun is not stopped, the next request pays for it.
    """

    def __init__(self, name: str, per_second: float) -> None:
        self.name = name
        self._per_second = per_second
        self._burst = max(1.0, per_second * _BURST_S)
        self._tokens, self._counted = self._burst, monotonic()

    def charge(self) -> None:
        """Pay for a request. Raises RateLimited."""
        self._count()
        if self._per_second and self._tokens < 1:
            raise RateLimited(
                f"the key is good for {self._per_second:g} requests, images or frames a second",
                retry_after_s=ceil((1 - self._tokens) / self._per_second),
            )
        self._tokens -= 1

    def owe(self, count: int) -> None:
        """Take on what turned out to be more than one."""
        self._tokens -= count

    async def turn(self) -> None:
        """Pay for a frame, and wait until it is paid."""
        self._count()
        self._tokens -= 1
        if self._per_second and self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._per_second)

    def _count(self) -> None:
        now = monotonic()
        earned = (now - self._counted) * self._per_second
        self._tokens, self._counted = min(self._burst, self._tokens + earned), now


# of the request, call or stream under way; nobody where the service asks for no key
CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
