"""A request has memory for its body before its body is received, and a place once it is complete."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.app import _OTHER_CALLS
from service.wire.pb import openinference_pb2, openinference_pb2_grpc, pose_pb2, pose_pb2_grpc
from tests.api.test_lifecycle import call, post, until
from tests.support.clients import JPEG
from tests.support.service import Launch, Service, resident_bytes
from tests.support.streams import kind as kind_of
from tests.support.streams import stream

HEAD = (
    "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\nconnection: close\r\n"
    "content-length: {length}\r\n\r\n"
)


def opened(service: Service, path: str, kind: str, length: int) -> socket.socket:
    """A request of which only the head has been sent."""
    host, port = service.url.removeprefix("http://").split(":")
    peer = socket.create_connection((host, int(port)), timeout=30)
    peer.sendall(HEAD.format(path=path, kind=kind, length=length).encode())
    return peer


PATHS = pytest.mark.parametrize(
    ("path", "kind", "api"),
    [
        ("/v1/poses", "image/jpeg", "rest"),
        ("/v2/models/lgm-pose/infer", "application/json", "rest_v2"),
        ("/v1/videos", "video/mp4", "rest_video"),
    ],
)


@PATHS
async def test_a_body_that_arrives_takes_no_place(
    launch: Launch, photo: bytes, path: str, kind: str, api: str
) -> None:
    service = launch(max_images=1, max_streams=1)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(closing(opened(service, path, kind, 100_000)))
        await until(lambda: service.metric("pose_in_flight", api=api) == 3)
        assert await post(service, photo) == 200
        assert await call(service, photo) == grpc.StatusCode.OK
        camera = [answer async for answer in stream(service, "grpc", [photo])]
        assert [kind_of(each) for each in camera] == ["poses"]
    await until(lambda: service.metric("pose_in_flight", api=api) == 0)


@asynccontextmanager
async def without_a_free_place(launch: Launch, photo: bytes) -> AsyncIterator[Service]:
    """A service whose only place is taken while this is open; then the photo that has it is answered."""
    service = launch(worker="process", max_images=1)
    (worker,) = psutil.Process(service.process.pid).children()
    worker.suspend()
    with closing(opened(service, "/v1/poses", "image/jpeg", len(photo))) as first:
        first.sendall(photo)
        await asyncio.sleep(0.5)
        yield service
        worker.resume()
        assert first.recv(12) == b"HTTP/1.1 200"


async def test_without_a_free_place_a_head_is_refused_after_its_body(launch: Launch, photo: bytes) -> None:
    async with without_a_free_place(launch, photo) as service:
        with closing(opened(service, "/v1/poses", "image/jpeg", 100_000)) as second:
            await asyncio.sleep(0.3)
            second.sendall(b"\0" * 50_000)  # whose refusal is not lost to a reset
            await asyncio.sleep(0.3)
            second.sendall(b"\0" * 50_000)
            answer = second.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in answer


async def test_without_a_free_place_grpc_calls_are_refused(launch: Launch, photo: bytes) -> None:
    async with (
        without_a_free_place(launch, photo) as service,
        grpc.aio.insecure_channel(service.grpc) as channel,
    ):
        v1 = pose_pb2_grpc.PoseServiceStub(channel)
        v2 = openinference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for refused in (
            v1.Estimate(pose_pb2.EstimateRequest(image=photo)),
            v2.ModelInfer(openinference_pb2.ModelInferRequest(model_name="lgm-pose")),
        ):
            assert await refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_client_that_waits_for_leave_to_send_is_refused_at_once(launch: Launch, photo: bytes) -> None:
    async with without_a_free_place(launch, photo) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as second:
            head = HEAD.format(path="/v1/poses", kind="image/jpeg", length=1000).removesuffix("\r\n")
            second.sendall(head.encode() + b"expect: 100-continue\r\n\r\n")
            assert second.recv(12) == b"HTTP/1.1 429"


async def test_memory_for_bodies_is_waited_for_in_turn(launch: Launch, photo: bytes) -> None:
    """A body that will be complete in time keeps its memory."""
    service = launch(max_body_bytes=200_000, body_memory_bytes=200_000)
    with closing(opened(service, "/v1/poses", "image/jpeg", 150_000)) as first:
        first.sendall(b"\0" * 100_000)
        await until(lambda: service.metric("pose_in_flight", api="rest") == 1)
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as http:
            second = asyncio.create_task(http.post("/v1/poses", content=photo, headers=JPEG))
            await asyncio.sleep(3)
            assert not second.done()
            first.sendall(b"\0" * 50_000)
            assert (await second).status_code == 200


@PATHS
async def test_a_slow_body_gives_way_when_its_memory_is_needed(
    launch: Launch, photo: bytes, path: str, kind: str, api: str
) -> None:
    limits = {"max_body_bytes": 200_000, "body_memory_bytes": 400_000}
    service = launch(**limits, max_video_bytes=200_000, max_streams=2)
    with ExitStack() as stack:
        slow = []
        for count in (1, 2):  # one after the other: the oldest gives way
            slow.append(stack.enter_context(closing(opened(service, path, kind, 200_000))))
            slow[-1].sendall(b"\0" * 1000)
            await until(lambda count=count: service.metric("pose_in_flight", api=api) == count)
        third = stack.enter_context(closing(opened(service, path, kind, 200_000)))
        third.sendall(b"\0" * 200_000)
        answered = await asyncio.to_thread(third.recv, 12)  # long before the slow ones are out of time
        assert answered == b"HTTP/1.1 400"
        for each in slow:
            each.sendall(b"\0" * 199_000)
        assert slow[0].recv(12) == b"HTTP/1.1 429"
        assert slow[1].recv(12) == b"HTTP/1.1 400"  # one was enough


async def test_a_slow_grpc_message_gives_way_when_its_memory_is_needed(launch: Launch, photo: bytes) -> None:
    service = launch(max_body_bytes=200_000, body_memory_bytes=200_000)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        silent = channel.stream_unary("/pose.v1.PoseService/Estimate")()  # a head without a message
        await silent.wait_for_connection()
        await until(lambda: service.metric("pose_in_flight", api="grpc") == 1)
        assert await call(service, photo) == grpc.StatusCode.OK
        assert await silent.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "slowly" in await silent.details()


async def test_messages_that_wait_for_memory_stay_with_their_clients(launch: Launch) -> None:
    """The service reads at most 1 MiB of each call ahead."""
    size = 20_000_000
    service = launch(max_body_bytes=size, body_memory_bytes=size)
    with closing(opened(service, "/v1/poses", "image/jpeg", size)) as first:
        await asyncio.to_thread(first.sendall, b"\0" * (size - 1))
        await until(lambda: resident_bytes(service) > 2 * size)
        before = resident_bytes(service)
        async with grpc.aio.insecure_channel(service.grpc) as channel:
            calls = [
                channel.stream_unary("/pose.v1.PoseService/Estimate")(iter([bytes(size)])) for _ in range(20)
            ]
            await asyncio.sleep(4)
            assert resident_bytes(service) - before < 64 * 2**20
            for each in calls:
                each.cancel()


async def test_hosts_take_turns_for_memory(launch: Launch, photo: bytes) -> None:
    """A host with many slow calls delays another host by one of them."""
    service = launch(max_body_bytes=200_000, body_memory_bytes=200_000)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        silent = [channel.stream_unary("/pose.v1.PoseService/Estimate")() for _ in range(20)]
        await until(lambda: service.metric("pose_in_flight", api="grpc") == 20)
        transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=service.url, transport=transport, timeout=30) as http:
            assert (await http.post("/v1/poses", content=photo, headers=JPEG)).status_code == 200
        # in order of arrival all of them would have had their turn before
        assert sum(call.done() for call in silent) < 10
        for call in silent:
            call.cancel()


async def test_a_grpc_message_has_a_deadline(launch: Launch, photo: bytes) -> None:
    service = launch(receipt_timeout_s=2)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        silent = channel.stream_unary("/pose.v1.PoseService/Estimate")()
        assert await silent.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive" in await silent.details()


async def test_waiting_calls_leave_room_for_health_checks(launch: Launch) -> None:
    service = launch(max_images=1, max_streams=1)
    calls = []
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        for _ in range(20):
            calls.append(channel.stream_unary("/pose.v1.PoseService/Estimate")())
            calls.append(channel.stream_stream("/pose.v1.PoseService/EstimateStream")())
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()


async def test_calls_above_the_limit_are_refused_and_those_below_finish(launch: Launch, photo: bytes) -> None:
    service = launch(max_images=1, max_streams=1)
    limit = 1 + 1 + _OTHER_CALLS
    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    async with (
        grpc.aio.insecure_channel(service.grpc, options=own_connection) as first,
        grpc.aio.insecure_channel(service.grpc, options=own_connection) as second,
    ):
        estimate = first.stream_unary("/pose.v1.PoseService/Estimate")()
        await estimate.wait_for_connection()
        await until(lambda: service.metric("pose_in_flight", api="grpc") == 1)
        request = health_pb2.HealthCheckRequest()
        watches = [health_pb2_grpc.HealthStub(first).Watch(request) for _ in range(limit - 1)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        for call in (
            health_pb2_grpc.HealthStub(second).Check(request, timeout=30),
            pose_pb2_grpc.PoseServiceStub(second).Estimate(pose_pb2.EstimateRequest(), timeout=30),
        ):
            assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await estimate.write(pose_pb2.EstimateRequest(image=photo).SerializeToString())
        await estimate.done_writing()
        assert pose_pb2.EstimateResponse.FromString(await estimate).poses.persons
        assert not any(watch.done() for watch in watches)
        watches[0].cancel()
        await until(lambda: _answers(service))
        for watch in watches:
            watch.cancel()


def _answers(service: Service) -> bool:
    """Whether a new call is answered."""
    with grpc.insecure_channel(service.grpc) as channel:
        call = health_pb2_grpc.HealthStub(channel).Check.future(health_pb2.HealthCheckRequest(), timeout=30)
        return call.exception() is None


async def test_a_message_that_is_not_one_is_an_invalid_argument(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        call = channel.unary_unary("/pose.v1.PoseService/Estimate")(b"\xff\xff\xff")
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
