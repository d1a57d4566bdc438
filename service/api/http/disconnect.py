"""Cancels work when its client disconnects."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from service.errors import Abandoned

T = TypeVar("T")
_WATCHED_AFTER_S = 0.05  # a lone request is answered before, without a second task


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. Raises Abandoned."""
    connection, watches = asyncio.timeout(None), list[asyncio.Task[None]]()

    def watch() -> None:
        watches.append(asyncio.create_task(_end_when_disconnected(request, connection)))

    try:
        async with connection:
            begin = asyncio.get_running_loop().call_later(_WATCHED_AFTER_S, watch)
            try:
                return await work
            finally:
                begin.cancel()
                for each in watches:
                    each.cancel()
    except TimeoutError:
        if connection.expired():
            raise Abandoned("the client closed the connection") from None
        raise


async def _end_when_disconnected(request: Request, connection: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    connection.reschedule(0)
