"""Clients of streams that stop reading or disappear.

POSE_TEST_KILLS sets the number of clients that are killed, each with six streams; 3 unless given.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
import websockets

from lgm_pose_client.frames import StreamConfig, StreamFrame
from lgm_pose_client.messages import config_message, frame_message
from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.api.test_lifecycle import post, until
from tests.support.service import ROOT, Launch, Service, resident_bytes
from tests.support.streams import ALL, LATEST, Answer, all_gone, config_text, kind, stream, websocket_url

KILLS = int(os.environ.get("POSE_TEST_KILLS", 3))


class Sender:
    """Sends frames one after the other until it is stopped."""

    def __init__(self, send: Callable[[int], Awaitable[None]], most: int) -> None:
        self.sent = 0
        self._send, self._most = send, most
        self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self.sent < self._most:
            await self._send(self.sent)
            self.sent += 1

    async def held(self) -> None:
        """Returns when no frame has been accepted for a while, or all have been sent."""
        before = -1
        while self.sent > before and not self._work.done():
            before = self.sent
            await asyncio.wait((self._work,), timeout=3)

    def stop(self) -> None:
        """Send nothing more, not even the frame that is held."""
        self._work.cancel()

    async def finish(self) -> None:
        """Returns when the held frame has been sent."""
        self._most = 0
        await self._work


@pytest.mark.parametrize("config", [ALL, LATEST], ids=["all", "latest"])
async def test_a_stopped_grpc_reader_holds_back_only_its_own_sender(
    service: Service, small: bytes, config: StreamConfig
) -> None:
    before = resident_bytes(service)
    # what the client's side would buffer for a reader that stops
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
    async with grpc.aio.insecure_channel(service.grpc, options) as channel:
        call = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream()
        await call.write(config_message(config))
        picture = padded(small)
        sender = Sender(lambda n: call.write(frame_message(StreamFrame(n, picture))), most=2000)
        await sender.held()
        assert config is LATEST or sender.sent < 2000
        await check_others(service, "websocket", small, before)
        reading = asyncio.create_task(collect_grpc(call))
        await sender.finish()
        await call.done_writing()
        answers = await asyncio.wait_for(reading, 120)
    assert [each.frame_id for each in answers] == list(range(sender.sent))
    assert answers[-1].counts.received == sender.sent
    await all_gone(service)


async def collect_grpc(
    call: "grpc.aio.StreamStreamCall[Any, Any]",
) -> list[pose_pb2.EstimateStreamResponse]:
    return [answer async for answer in call]


@pytest.mark.parametrize("config", [ALL, LATEST], ids=["all", "latest"])
async def test_a_stopped_websocket_reader_loses_no_answers_and_disturbs_no_others(
    service: Service, small: bytes, config: StreamConfig
) -> None:
    """Whether the sender is held back depends on how many answers fit the system's buffers."""
    before = resident_bytes(service)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        narrow.connect((host, int(port)))
        narrow.setblocking(False)
        async with websockets.connect(
            websocket_url(service), sock=narrow, max_queue=1, ping_interval=None
        ) as peer:
            await peer.send(config_text(config))
            picture = padded(small)
            sender = Sender(lambda _: peer.send(picture), most=500)
            await sender.held()
            await check_others(service, "grpc", small, before)
            reading = asyncio.create_task(collect_websocket(peer))
            await sender.finish()
            await peer.send("end")
            answers = await asyncio.wait_for(reading, 120)
    assert [each["frame_id"] for each in answers] == list(range(sender.sent))
    assert answers[-1]["counts"]["received"] == sender.sent
    await all_gone(service)


async def collect_websocket(peer: websockets.ClientConnection) -> list[Answer]:
    return [orjson.loads(message) async for message in peer]


async def check_others(service: Service, protocol: str, small: bytes, memory: int) -> None:
    """Another stream is answered, and the service uses little more memory than before."""
    other = [answer async for answer in stream(service, protocol, [small] * 20)]
    assert [kind(each) for each in other] == ["poses"] * 20
    assert resident_bytes(service) - memory < 64 * 2**20


def padded(picture: bytes) -> bytes:
    """An image of 200 kB; data after its end is not read."""
    return picture + b"\0" * 200_000


CLIENT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from types import SimpleNamespace
from tests.support.streams import stream, ALL, LATEST

async def watch(service, number, picture):
    async for _ in stream(service, ("grpc", "websocket")[number % 2], [picture] * 10**6, (ALL, LATEST)[number // 2 % 2]):
        print(number, flush=True)

async def main():
    picture = open({picture!r}, "rb").read()
    service = SimpleNamespace(url={url!r}, grpc={grpc!r})
    await asyncio.gather(*(watch(service, number, picture) for number in range(6)))

asyncio.run(main())
"""  # noqa: E501


async def test_killed_clients_leave_no_open_resources(launch: Launch, small: bytes, tmp_path: Path) -> None:
    service = launch()
    (tmp_path / "small.jpg").write_bytes(small)
    script = CLIENT.format(
        root=str(ROOT), picture=str(tmp_path / "small.jpg"), url=service.url, grpc=service.grpc
    )
    await kill_in_mid_stream(script)  # whatever is opened once is open now
    await all_gone(service)
    files = open_files(service)
    memory = resident_bytes(service)
    for _ in range(KILLS):
        await kill_in_mid_stream(script)
        await all_gone(service)
    await until(lambda: open_files(service) <= files)
    assert resident_bytes(service) - memory < 32 * 2**20
    assert await post(service, small) == 200
    assert not [line for line in service.log if line["level"] in ("error", "critical")]


def open_files(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


async def kill_in_mid_stream(script: str) -> None:
    """Run six streams and kill their process after each has an answer."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    answered: set[bytes] = set()
    while len(answered) < 6:
        line = await asyncio.wait_for(client.stdout.readline(), 60)
        assert line, "the client ended by itself"
        answered.add(line)
    client.send_signal(signal.SIGKILL)
    await client.communicate()
