"""The service as a process: start, overload, disconnects, shutdown."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.config import Settings
from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.clients import JPEG
from tests.support.networks import save_networks
from tests.support.service import ROOT, Launch, Service


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; each check is a request to the service."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            pass


async def post(service: Service, image: bytes) -> int | None:
    """Status of one POST over its own connection, None if the service does not accept it."""
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        try:
            response = await http.post("/v1/poses", content=image, headers=JPEG)
        except httpx.TransportError:
            return None
        assert response.status_code != 200 or response.json()["results"][0]["persons"]
        return response.status_code


async def call(service: Service, image: bytes, timeout: float = 60) -> grpc.StatusCode:
    """Status of one Estimate over its own channel."""
    async with grpc.aio.insecure_channel(service.grpc, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        try:
            answer = await stub.Estimate(pose_pb2.EstimateRequest(image=image), timeout=timeout)
            assert answer.poses.persons
        except grpc.aio.AioRpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK


async def watch_health(service: Service) -> list[int]:
    """The statuses that a watch receives until the service ends it."""
    received = []
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            async for update in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                received.append(update.status)
    return received


@pytest.mark.parametrize("round_", range(3))
async def test_sigterm_answers_what_was_accepted(launch: Launch, photo: bytes, round_: int) -> None:
    service = launch(slow=True)
    watching = asyncio.create_task(watch_health(service))
    work: list[asyncio.Task[object]] = []

    def busy() -> bool:
        return all(service.metric("pose_in_flight", api=api) > 1 for api in ("rest", "grpc"))

    async with asyncio.timeout(60):
        while not (work and await asyncio.to_thread(busy)):
            if all(each.done() for each in work):  # at first, and if it ended before it was seen
                work += [asyncio.create_task(ask(service, photo)) for ask in [post, call] * 10]
    for _ in range(round_ + 1):  # more than one signal must change nothing
        service.terminate()
    done = Counter(await asyncio.wait_for(asyncio.gather(*work), 60))
    assert await asyncio.to_thread(service.wait) == 0
    logged = Counter(line["code"] for line in service.log if line["message"] == "request")
    assert logged.keys() <= {"200", "503", "OK", "UNAVAILABLE"}
    assert done[200] == logged["200"] > 0
    assert done[grpc.StatusCode.OK] == logged["OK"] > 0
    assert done.keys() <= {200, 503, None, grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert await watching == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]


async def test_requests_that_a_second_interrupt_ends_are_recorded(launch: Launch, photo: bytes) -> None:
    service = launch()
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        asked = asyncio.create_task(client.post("/v1/poses", files=[("image", photo)] * 60))
        await until(lambda: service.metric("pose_in_flight", api="rest") == 1)
        for _ in range(2):
            await asyncio.sleep(0.05)
            service.process.send_signal(signal.SIGINT)
        service.process.send_signal(signal.SIGTERM)  # takes nothing back
        await asyncio.gather(asked, return_exceptions=True)
    assert await asyncio.to_thread(service.wait) == 128 + signal.SIGINT
    assert len([line for line in service.log if line["message"] == "request"]) == 1


async def test_draining_ends_streams_and_refuses_calls(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, threads=1)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        stream = stub.EstimateStream()
        await stream.write(pose_pb2.EstimateStreamRequest(config=pose_pb2.StreamConfig()))
        request = pose_pb2.EstimateRequest(image=photo)
        calls = [stub.Estimate(request) for _ in range(40)]
        await until(lambda: service.metric("pose_in_flight", api="grpc") > 1)
        service.terminate()
        assert await stream.code() == grpc.StatusCode.UNAVAILABLE
        assert await stub.Estimate(request).code() == grpc.StatusCode.UNAVAILABLE
        codes = Counter([await each.code() for each in calls])
    assert await asyncio.to_thread(service.wait) == 0
    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    logged = [line for line in service.log if line.get("api") == "grpc" and line["code"] == "OK"]
    assert codes[grpc.StatusCode.OK] == len(logged) > 0


async def test_the_signal_ends_readiness(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, threads=1)
    work = [asyncio.create_task(post(service, photo)) for _ in range(40)]
    await until(lambda: service.metric("pose_in_flight", api="rest") > 1)
    async with httpx.AsyncClient(base_url=service.url) as http:
        assert (await http.get("/readyz")).status_code == 200
        service.terminate()
        await asyncio.to_thread(service.wait_for_log, "draining")
        try:
            response = await http.get("/readyz")
        except httpx.TransportError:
            pass  # it no longer listens
        else:
            assert response.status_code == 503
            assert response.headers["connection"] == "close"
            assert response.json()["code"] == "shutting_down"
    done = Counter(await asyncio.gather(*work))
    assert done.keys() <= {200, 503, None}
    assert await asyncio.to_thread(service.wait) == 0
    assert done[200] == len([line for line in service.log if line.get("code") == "200"]) > 0


async def test_overload_is_refused_and_the_service_recovers(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, max_images=4, threads=1)
    limits = httpx.Limits(max_connections=30)
    async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as http:
        posts = [http.post("/v1/poses", content=photo, headers=JPEG) for _ in range(30)]
        responses = await asyncio.gather(*posts)
    assert {response.status_code for response in responses} == {200, 429}
    for response in responses:
        if response.status_code == 429:
            assert response.json()["code"] == "overloaded"
            assert int(response.headers["retry-after"]) > 0

    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        calls = [stub.Estimate(pose_pb2.EstimateRequest(image=photo)) for _ in range(30)]
        codes = [await each.code() for each in calls]
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        for each in calls:
            if await each.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert int(dict(await each.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert await post(service, photo) == 200
    assert await call(service, photo) == grpc.StatusCode.OK


@pytest.mark.parametrize("connection", ("close", "keep-alive"))
def test_clients_that_are_still_sending_receive_the_refusal(
    launch: Launch, photo: bytes, connection: str
) -> None:
    """No connection is reset while a body is sent, and admitted requests are answered."""
    service = launch(worker="process", max_images=1)
    (worker,) = psutil.Process(service.process.pid).children()
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /v1/poses HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\nconnection: {connection}\r\n"
    head += f"content-length: {len(photo)}\r\n\r\n"
    peers = [socket.create_connection((host, int(port)), timeout=60) for _ in range(20)]
    admitted, *refused = peers
    worker.suspend()
    admitted.sendall(head.encode() + photo)
    while service.metric("pose_in_flight", api="rest") < 1:
        pass
    for part in (head.encode() + photo[:9000], photo[9000:60_000], photo[60_000:]):
        for peer in refused:
            peer.sendall(part)
        time.sleep(1)  # an answer before its time is on its way by now
    assert {peer.recv(12) for peer in refused} == {b"HTTP/1.1 429"}
    worker.resume()
    assert admitted.recv(12) == b"HTTP/1.1 200"
    for peer in peers:
        peer.close()


async def leave(service: Service, image: bytes) -> asyncio.StreamWriter:
    """A complete request whose answer is not read; close the writer to disconnect."""
    host, port = service.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/poses HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: {len(image)}"
    writer.write(head.encode() + b"\r\n\r\n" + image)
    await writer.drain()
    return writer


async def test_clients_that_disconnect_leak_nothing_and_disturb_no_others(
    launch: Launch, photo: bytes
) -> None:
    service = launch(max_images=200)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        for _ in range(10):
            stays = [asyncio.create_task(ask(service, photo)) for ask in [post, call] * 3]
            writers = [await leave(service, photo) for _ in range(25)]
            calls = [stub.Estimate(pose_pb2.EstimateRequest(image=photo)) for _ in range(25)]
            await asyncio.wait(stays, return_when=asyncio.FIRST_COMPLETED)
            for writer, each in zip(writers, calls, strict=True):
                writer.close()
                each.cancel()
            assert set(await asyncio.gather(*stays)) == {200, grpc.StatusCode.OK}
    for api in ("rest", "grpc"):
        await until(lambda api=api: service.metric("pose_in_flight", api=api) == 0)  # type: ignore[misc]
    await until(lambda: service.metric("pose_queue_depth") == 0)
    assert await post(service, photo) == 200
    assert service.metric("pose_requests_total", api="rest", code="499") > 0
    assert service.metric("pose_requests_total", api="grpc", code="CANCELLED") > 0
    assert not [line for line in service.log if line["level"] == "error"]


async def test_work_of_a_disconnected_client_is_dropped(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, threads=1)
    writers = [await leave(service, photo) for _ in range(20)]
    await until(lambda: service.metric("pose_in_flight", api="rest") > 10)
    for writer in writers:
        writer.close()
    await until(lambda: service.metric("pose_in_flight", api="rest") == 0)
    assert await post(service, photo) == 200
    assert service.metric("pose_requests_total", api="rest", code="499") > 0
    assert service.metric("pose_batch_images_sum") < 20


async def test_deadlines(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, threads=1, request_timeout_s=0.1)
    done = await asyncio.gather(*(ask(service, photo) for ask in [post, call] * 30))
    assert {504, grpc.StatusCode.DEADLINE_EXCEEDED} <= set(done)
    assert set(done) <= {200, 504, grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    await until(lambda: service.metric("pose_queue_depth") == 0)
    assert service.metric("pose_batch_images_sum") < 60


async def test_the_deadline_of_a_client_is_kept(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, threads=1)
    calls = [asyncio.create_task(call(service, photo, timeout=0.1)) for _ in range(30)]
    assert grpc.StatusCode.DEADLINE_EXCEEDED in await asyncio.gather(*calls)
    await until(lambda: service.metric("pose_queue_depth") == 0)
    assert service.metric("pose_batch_images_sum") < 30
    assert await call(service, photo) == grpc.StatusCode.OK


async def test_an_incomplete_body_times_out(launch: Launch) -> None:
    service = launch(receipt_timeout_s=0.2)
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /v1/poses HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: 99\r\n\r\n"
    writer.write(head + b"\xff\xd8")
    answered = await asyncio.wait_for(reader.read(), 60)
    assert answered.startswith(b"HTTP/1.1 408 ")
    assert b"receipt_timeout" in answered
    writer.close()


async def test_the_stream_of_a_vanished_client_is_closed(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True)

    async def messages() -> AsyncIterator[pose_pb2.EstimateStreamRequest]:
        yield pose_pb2.EstimateStreamRequest(config=pose_pb2.StreamConfig())
        while True:
            yield pose_pb2.EstimateStreamRequest(frame=pose_pb2.Frame(image=photo))

    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stream = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream(messages())
        async with asyncio.timeout(60):
            while not (await stream.read()).poses.persons:
                continue  # a newer frame has replaced this one
        stream.cancel()
    await until(lambda: service.metric("pose_in_flight", api="grpc_stream") == 0)
    await asyncio.to_thread(service.wait_for_log, "stream ended")
    assert await post(service, photo) == 200


def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs the command until it ends."""
    variables = {f"POSE_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_setting_with_its_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, field in Settings.model_fields.items():
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  POSE_{name.upper()} ")]
        assert f"[{'' if field.default is None else field.default}]" in line
        assert field.description is not None
        assert field.description in line


def test_each_invalid_setting_stops_start_up_with_a_line() -> None:
    done = run(http_port="many", max_batch=0)
    assert done.returncode != 0
    first, second = done.stderr.splitlines()
    assert first.startswith("POSE_HTTP_PORT: ")
    assert second.startswith("POSE_MAX_BATCH: ")


def test_an_invalid_network_stops_start_up_with_one_line(tmp_path: Path) -> None:
    done = run(weights=save_networks(tmp_path, format="7"), http_port=0, grpc_port=0)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "format '7'" in done.stderr


@pytest.mark.parametrize("name", ["http_port", "grpc_port"])
def test_a_port_in_use_stops_start_up_with_one_line(tmp_path: Path, name: str) -> None:
    save_networks(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"http_port": 0, "grpc_port": 0, name: taken.getsockname()[1]}
        done = run(weights=tmp_path, **ports)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert f"POSE_{name.upper()}" in done.stderr


def test_a_public_address_causes_a_warning(launch: Launch) -> None:
    private, exposed = launch(), launch(host="0.0.0.0")
    (warning,) = [line for line in exposed.log if line["level"] == "warning"]
    assert "0.0.0.0" in warning["message"]
    assert not [line for line in private.log if line["level"] == "warning"]
