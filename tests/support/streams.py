"""The same streams over both protocols."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import orjson
import websockets

from lgm_pose_client import AsyncGrpcClient
from lgm_pose_client.frames import Policy, StreamConfig, StreamFrame
from tests.api.test_lifecycle import until
from tests.support.service import Service

Answer = dict[str, Any]  # frame_id, counts, and one of poses, dropped, error
Pictures = AsyncIterator[bytes] | Iterable[bytes]
ALL, LATEST = StreamConfig(policy=Policy.ALL), StreamConfig()
PROTOCOLS = ("grpc", "websocket")


async def stream(
    service: Service, protocol: str, pictures: Pictures, config: StreamConfig = ALL
) -> AsyncIterator[Answer]:
    """The answers to images sent as frames 0, 1, ..."""
    talk = {"grpc": over_grpc, "websocket": over_websocket}[protocol]
    async with aclosing(talk(service, pictures, config)) as answers:
        async for answer in answers:
            yield answer


async def over_grpc(service: Service, pictures: Pictures, config: StreamConfig) -> AsyncIterator[Answer]:
    async def frames() -> AsyncIterator[StreamFrame]:
        frame_id = 0
        async for picture in one_by_one(pictures):
            yield StreamFrame(frame_id, picture)
            frame_id += 1

    async with (
        AsyncGrpcClient(service.grpc) as client,
        aclosing(client.stream(frames(), config, give_up_s=0)) as answers,
    ):
        async for answer in answers:
            yield orjson.loads(answer.json())


async def over_websocket(service: Service, pictures: Pictures, config: StreamConfig) -> AsyncIterator[Answer]:
    # a ping waits behind the frames that are held back
    async with websockets.connect(websocket_url(service), ping_timeout=None) as socket:
        await socket.send(config_text(config))

        async def send() -> None:
            async for picture in one_by_one(pictures):
                await socket.send(picture)
            await socket.send("end")

        sending = asyncio.create_task(send())
        try:
            async for message in socket:
                yield orjson.loads(message)
            await sending
        except GeneratorExit:
            socket.transport.abort()  # a client that disconnects does not wait for answers
            raise
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


def config_text(config: StreamConfig) -> str:
    """A config as the first message over WebSocket."""
    fields = asdict(config)
    return orjson.dumps({**fields.pop("options"), **fields}).decode()


def websocket_url(service: Service) -> str:
    return f"ws{service.url.removeprefix('http')}/v1/stream"


async def one_by_one(pictures: Pictures) -> AsyncIterator[bytes]:
    if isinstance(pictures, AsyncIterator):
        async for picture in pictures:
            yield picture
    else:
        for picture in pictures:
            yield picture


def kind(answer: Answer) -> str:
    """The outcome of the frame."""
    (found,) = answer.keys() - {"frame_id", "counts"}
    return found


async def all_gone(service: Service) -> None:
    for api in ("grpc_stream", "websocket"):
        await until(lambda api=api: service.metric("pose_streams_open", api=api) == 0)  # type: ignore[misc]
        await until(lambda api=api: service.metric("pose_in_flight", api=api) == 0)  # type: ignore[misc]
    await until(lambda: service.metric("pose_queue_depth") == 0)
