"""Cancels work when its client disconnects."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from service.errors import Abandoned

T = TypeVar("T")


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. Raises Abandoned."""
    connection = asyncio.timeout(None)
    try:
        async with connection:
            end = asyncio.create_task(_end_when_disconnected(request, connection))
            try:
                return await work
            finally:
                end.cancel()
    except TimeoutError:
        if connection.expired():
            raise Abandoned("the client closed the connection") from None
        raise


async def _end_when_disconnected(request: Request, connection: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    connection.reschedule(0)
