"""The client of a request, and its rate limit."""

import asyncio
from contextvars import ContextVar
from math import ceil
from time import monotonic

from service.errors import RateLimited

_BURST_S = 2  # seconds for which unused rate accumulates


class Client:
    """The holder of a key.

    name: name of the key, for the log. per_second: limit of requests, images and frames together; 0 for no
    limit. The limit is a token bucket that may become negative: work that has begun is not stopped, later
    requests wait or are refused instead.
    """

    def __init__(self, name: str, per_second: float) -> None:
        self.name = name
        self._per_second = per_second
        self._burst = max(1.0, per_second * _BURST_S)
        self._tokens, self._counted = self._burst, monotonic()

    def try_acquire(self) -> None:
        """Take a token for a request. Raises RateLimited when there is none."""
        self._count()
        if self._per_second and self._tokens < 1:
            raise RateLimited(
                f"the key allows {self._per_second:g} requests, images or frames a second",
                retry_after_s=ceil((1 - self._tokens) / self._per_second),
            )
        self._tokens -= 1

    def debit(self, count: int) -> None:
        """Take `count` further tokens, for a request with several images; never fails."""
        self._tokens -= count

    async def wait_for_token(self) -> None:
        """Take a token for a frame, and wait until it is available."""
        self._count()
        self._tokens -= 1
        if self._per_second and self._tokens < 0:
            await asyncio.sleep(-self._tokens / self._per_second)

    def _count(self) -> None:
        now = monotonic()
        earned = (now - self._counted) * self._per_second
        self._tokens, self._counted = min(self._burst, self._tokens + earned), now


# the client of the current request, call or stream; None where no keys are configured
CLIENT: ContextVar[Client | None] = ContextVar("client", default=None)
