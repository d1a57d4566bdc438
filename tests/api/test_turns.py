"""The order in which requests begin, and in which those that wait get the memory for their bodies."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import httpx

from service.api.intake import Turns
from service.app import create_app
from service.config import Settings


async def test_requests_begin_in_order_of_arrival() -> None:
    """FastAPI calls plain functions in threads of AnyIO, which requests leave in any order."""
    app, before = create_app(Settings(http_port=0, grpc_port=0)), set(threading.enumerate())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http,
    ):
        for path, methods in app.openapi()["paths"].items():
            for method in methods:
                await http.request(method, path.format(model="lgm-pose", version="1"))
        names = {each.name for each in {*threading.enumerate()} - before}
    assert not {name for name in names if name.startswith("AnyIO")}


async def holder(turns: Turns, host: str, name: str, order: list[str]) -> None:
    async with turns.turn(host):
        order.append(name)
        await asyncio.sleep(0)


async def started(*work: Callable[[], Awaitable[None]]) -> list[asyncio.Task[None]]:
    """Tasks that wait, in this order."""
    tasks = []
    for each in work:
        tasks.append(asyncio.ensure_future(each()))
        await asyncio.sleep(0)
    return tasks


async def test_hosts_take_turns_and_the_requests_of_a_host_keep_their_order() -> None:
    turns, order = Turns(), list[str]()
    names = ["a1", "a2", "a3", "b1", "c1", "b2"]
    async with turns.turn("a"):
        tasks = await started(*(lambda name=name: holder(turns, name[0], name, order) for name in names))
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_request_that_leaves_loses_its_turn_to_the_next() -> None:
    turns, order = Turns(), list[str]()
    async with turns.turn("a"):
        tasks = await started(*(lambda name=name: holder(turns, name, name, order) for name in "abc"))
        tasks[0].cancel()  # while it waits
        await asyncio.sleep(0)
    tasks[1].cancel()  # when its turn has come and it has not run since
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["c"]
    async with asyncio.timeout(5), turns.turn("d"):  # the lock is free again
        pass
