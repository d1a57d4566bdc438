"""Clients that are slow with a head, a body, a message or an answer, and too many connections."""

import asyncio
import os
import re
import resource
import shutil
import socket
import subprocess
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
import websockets
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.http.slow_clients import check_hooks
from service.config import Settings
from service.errors import ConfigError
from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.api.test_lifecycle import until
from tests.api.test_permits import opened
from tests.support.clients import JPEG
from tests.support.service import Launch, Service
from tests.support.streams import ALL, config_text, websocket_url

HEAD = b"POST /v1/poses HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\n"
WHOLE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
CONNECTIONS = int(os.environ.get("POSE_TEST_SLOW_CONNECTIONS", 50))


async def connect(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(service.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send `data` repeatedly, faster than any deadline, until the service closes the connection."""
    try:
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.05)
    except OSError:
        pass


async def answer_to(service: Service, first: bytes, then: bytes = b"") -> bytes:
    """All that the service sends, until it closes, after `first` and repeated `then`."""
    reader, writer = await connect(service)
    writer.write(first)
    dripping = asyncio.create_task(drip(writer, then)) if then else None
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        return b""
    finally:
        if dripping:
            dripping.cancel()
        writer.close()


async def test_a_head_has_a_deadline(launch: Launch) -> None:
    service = launch(head_timeout_s=1)
    slow = await answer_to(service, HEAD, b"x-a: b\r\n")
    assert slow.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in slow and b"nosniff" in slow
    assert slow.endswith(b'"code":"receipt_timeout"}')
    assert await answer_to(service, b"") == b""
    later = await answer_to(service, WHOLE, b"G")  # the deadline is that of each request
    assert later.startswith(b"HTTP/1.1 200 ")
    assert httpx.get(f"{service.url}/healthz").status_code == 200


async def test_a_head_has_a_limit(service: Service) -> None:
    answer = await answer_to(service, HEAD, b"x-a: " + b"b" * 9000 + b"\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")  # a reset may overtake the answer
    whole = await answer_to(service, HEAD + b"x-a: " + b"b" * 70_000)
    assert whole.startswith(b"HTTP/1.1 431 ")
    assert b"head_too_large" in whole


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The answer to a whole request on an open connection."""
    writer.write(WHOLE)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    return await reader.readexactly(int(length[1]))


async def test_an_idle_connection_is_kept_for_the_next_request(service: Service) -> None:
    assert Settings.model_fields["idle_timeout_s"].default > 60
    reader, writer = await connect(service)
    for pause in (0, 7, 1):
        await asyncio.sleep(pause)
        assert b"ok" in await ask(reader, writer)
    writer.close()


async def test_an_idle_connection_ends_after_its_time_and_a_slow_head_after_its_own(launch: Launch) -> None:
    service = launch(idle_timeout_s=3, head_timeout_s=1)
    reader, writer = await connect(service)
    await ask(reader, writer)
    await asyncio.sleep(1.5)  # longer than a head may take
    await ask(reader, writer)
    start = perf_counter()
    writer.write(HEAD)
    assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    assert perf_counter() - start < 2.5
    writer.close()
    reader, writer = await connect(service)
    await ask(reader, writer)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


def test_a_uvicorn_without_the_methods_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_hooks()
    monkeypatch.delattr(HttpToolsProtocol, "on_message_begin")
    with pytest.raises(ConfigError, match="has no HttpToolsProtocol"):
        check_hooks()


async def test_a_request_that_takes_longer_than_the_head_deadline_is_answered(
    launch: Launch, photo: bytes
) -> None:
    service = launch(slow=True, head_timeout_s=0.05)
    files = [("image", photo)] * 4
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        assert (await http.post("/v1/poses", files=files)).status_code == 200


async def test_an_answer_that_is_not_read_times_out(launch: Launch) -> None:
    """A client that requests much and reads nothing is cut off; one that only sends is not."""
    service = launch(receipt_timeout_s=1, head_timeout_s=1)
    parts = urlsplit(service.url)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect((parts.hostname, parts.port))
        deaf.settimeout(30)
        ask = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 20
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
            while True:
                deaf.sendall(ask)
                await asyncio.sleep(0.05)
    assert httpx.get(f"{service.url}/healthz").status_code == 200


async def test_a_websocket_message_has_a_deadline_and_a_camera_has_none(launch: Launch, small: bytes) -> None:
    service = launch(receipt_timeout_s=1)
    async with websockets.connect(websocket_url(service)) as patient:
        await patient.send(config_text(ALL))
        slow = await websockets.connect(websocket_url(service))
        await slow.send(config_text(ALL))

        async def trickle() -> None:
            async def pieces():  # type: ignore[no-untyped-def]
                while True:
                    yield b"x"
                    await asyncio.sleep(0.05)

            await slow.send(pieces())

        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(trickle(), 60)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "receipt_timeout")
        await patient.send(small)  # longer than the deadline after the message before it
        assert '"persons":[{' in str(await patient.recv())


async def test_new_connections_replace_idle_ones(launch: Launch, photo: bytes) -> None:
    service = launch(max_connections=4, head_timeout_s=600)
    idle = [await connect(service) for _ in range(4)]
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        for _ in range(3):
            assert (await http.post("/v1/poses", content=photo, headers=JPEG)).status_code == 200
    reader, _ = idle[0]
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    for _, writer in idle:
        writer.close()


async def test_new_connections_replace_slow_bodies(launch: Launch, photo: bytes) -> None:
    service = launch(max_connections=3)
    with ExitStack() as stack:
        first, second, _ = [
            stack.enter_context(opened(service, "/v1/poses", "image/jpeg", 100_000)) for _ in range(3)
        ]
        second.sendall(b"\0" * 50_000)
        await asyncio.sleep(2)
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
            assert (await http.post("/v1/poses", content=photo, headers=JPEG)).status_code == 200
        with suppress(ConnectionResetError):
            assert first.recv(1) == b""
        second.sendall(b"\0" * 50_000)
        assert second.recv(12) == b"HTTP/1.1 400"


async def test_active_connections_are_not_replaced(launch: Launch, photo: bytes) -> None:
    service = launch(max_connections=4)
    sockets = [await websockets.connect(websocket_url(service)) for _ in range(3)]
    with opened(service, "/v1/poses", "image/jpeg", 100_000) as sending:
        sending.sendall(b"\0" * 50_000)
        await asyncio.sleep(2)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{service.url}/healthz")
        sending.sendall(b"\0" * 50_000)
        assert sending.recv(12) == b"HTTP/1.1 400"
    for each in sockets:
        await each.send(config_text(ALL))
        await each.send(photo)
        assert '"persons":[{' in str(await each.recv())
    for each in sockets:
        await each.close()
    await until(lambda: httpx.get(f"{service.url}/healthz").status_code == 200)


def test_grpc_limits_the_connections(launch: Launch, photo: bytes) -> None:
    """512 connections are kept. A further one is closed, and accepted once another has ended."""
    service = launch()
    host, port = service.grpc.split(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))

    def greeted() -> socket.socket | None:
        """A connection whose HTTP/2 preface the server has answered; None if it was closed."""
        peer = socket.create_connection((host, int(port)), timeout=60)
        try:
            peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            if peer.recv(9):
                return peer
        except ConnectionError:
            pass
        peer.close()
        return None

    held = [each for _ in range(512) if (each := greeted())]
    try:
        assert len(held) == 512
        assert greeted() is None
        for _ in range(2):
            held.pop().close()
        with closing(grpc.insecure_channel(service.grpc)) as channel:
            stub = pose_pb2_grpc.PoseServiceStub(channel)
            request = pose_pb2.EstimateRequest(image=photo)
            assert stub.Estimate(request, timeout=60, wait_for_ready=True).poses.persons
    finally:
        for each in held:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Healthy:
    """Posts images one after the other."""

    def __init__(self, service: Service, picture: bytes) -> None:
        self._url, self._picture = f"{service.url}/v1/poses", picture

    def rate(self, seconds: float) -> float:
        """Successful answers in a second."""
        done, start = 0, perf_counter()
        with httpx.Client(timeout=60) as http:
            while perf_counter() - start < seconds:
                done += http.post(self._url, content=self._picture, headers=JPEG).status_code == 200
        return done / (perf_counter() - start)


@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="needs slowhttptest")
@pytest.mark.parametrize("mode", ["-H", "-B", "-X"])
def test_slowhttptest_does_not_block_other_clients(
    launch: Launch, small: bytes, tmp_path: Path, mode: str
) -> None:
    """POSE_TEST_SLOW_CONNECTIONS sets the number of connections, 50 unless given."""
    service = launch(head_timeout_s=3, receipt_timeout_s=6)
    extra = ["-s", "8192", "-t", "POST"] if mode == "-B" else ["-k", "3", "-w", "10", "-y", "20", "-n", "5"]
    url = f"{service.url}/{'v1/poses' if mode == '-B' else 'openapi.json'}"
    arguments = ["-c", str(CONNECTIONS), mode, "-i", "1", "-r", "100", "-l", "12", "-p", "60", "-u", url]
    with (tmp_path / "out").open("w") as out:
        attack = subprocess.Popen(
            ["slowhttptest", *arguments, *(extra if mode != "-H" else [])], stdout=out, cwd=tmp_path
        )
        during: list[float] = []
        client = threading.Thread(target=lambda: during.append(Healthy(service, small).rate(10)))
        client.start()
        attack.wait(timeout=120)
        client.join(timeout=120)
    output = re.sub(r"\x1b\[[0-9;]*m", "", (tmp_path / "out").read_text())
    assert "service available:   NO" not in output
    assert during[0] > 0
