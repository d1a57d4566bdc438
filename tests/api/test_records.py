"""What is recorded of a request, and from when its latency counts."""

import asyncio

import grpc
import pytest

from lgm_pose_client.messages import config_message
from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.api.test_lifecycle import until
from tests.api.test_permits import opened
from tests.support.clients import Client, GrpcClient, Refused, RestClient
from tests.support.service import Launch, Service
from tests.support.streams import LATEST, PROTOCOLS, stream

APIS = {"grpc": "grpc_stream", "websocket": "websocket"}


def refusals(service: Service, api: str, code: str) -> float:
    return service.metric("pose_requests_total", api=api, code=code)


def test_a_grpc_call_with_a_wrong_option_is_recorded(rpc: GrpcClient, service: Service, photo: bytes) -> None:
    before = refusals(service, "grpc", "INVALID_ARGUMENT")
    with pytest.raises(Refused):
        rpc.estimate(photo, min_score=2)
    assert refusals(service, "grpc", "INVALID_ARGUMENT") == before + 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_camera_too_many_is_recorded(launch: Launch, small: bytes, protocol: str) -> None:
    service = launch(max_streams=0)
    with pytest.raises(Exception):  # noqa: B017  each protocol has its own
        async for _ in stream(service, protocol, [small], LATEST):
            raise AssertionError
    await until(lambda: refusals(service, APIS[protocol], "RESOURCE_EXHAUSTED") == 1)
    (line,) = [each for each in service.log if each.get("code") == "RESOURCE_EXHAUSTED"]
    assert line["api"] == APIS[protocol]


async def test_a_wrong_config_is_recorded_and_a_camera_that_leaves_is_not(launch: Launch) -> None:
    service = launch()
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        wrong = stub.EstimateStream()
        config = pose_pb2.StreamConfig(smoothing=True)
        await wrong.write(pose_pb2.EstimateStreamRequest(config=config))
        assert await wrong.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert refusals(service, "grpc_stream", "INVALID_ARGUMENT") == 1
        leaving = stub.EstimateStream()
        await leaving.write(config_message(LATEST))
        await until(lambda: service.metric("pose_streams_open", api="grpc_stream") == 1)
        leaving.cancel()
        await until(lambda: service.metric("pose_streams_open", api="grpc_stream") == 0)
    assert refusals(service, "grpc_stream", "CANCELLED") == 0


def test_requests_for_anything_but_persons_are_not_recorded(rest: RestClient, service: Service) -> None:
    def recorded() -> list[str]:
        lines = rest.http.get("/metrics").text.splitlines()
        return [
            line for line in lines if line.startswith(('pose_requests_total{api="rest', "pose_request_sec"))
        ]

    before = recorded()
    for path in ("/v1/models", "/v1/skeleton", "/v1/nothing", "/v1/poses/more", "/v2/models/other/infer"):
        rest.http.get(path)
    rest.http.post("/v1/nothing")
    rest.http.get("/v1/poses")
    assert recorded() == before


def test_only_answers_with_persons_have_a_latency(client: Client, service: Service, photo: bytes) -> None:
    def answered() -> tuple[float, float]:
        seconds = service.metric("pose_request_seconds_count", api=client.api)
        return seconds, refusals(service, client.api, {"rest": "400", "grpc": "INVALID_ARGUMENT"}[client.api])

    client.estimate(photo)
    served, invalid = answered()
    for _ in range(3):
        with pytest.raises(Refused):
            client.estimate(b"no image")
    assert answered() == (served, invalid + 3)
    client.estimate(photo)
    assert answered() == (served + 1, invalid + 3)


async def test_latency_counts_from_the_end_of_the_upload(launch: Launch, photo: bytes) -> None:
    service = launch()
    with opened(service, "/v1/poses", "image/jpeg", len(photo)) as peer:
        peer.sendall(photo[:1000])
        await asyncio.sleep(3)
        peer.sendall(photo[1000:])
        assert peer.recv(12) == b"HTTP/1.1 200"
    await until(lambda: service.metric("pose_stage_seconds_count", stage="receive") == 1)
    assert service.metric("pose_stage_seconds_sum", stage="receive") > 2.5
    assert service.metric("pose_request_seconds_sum", api="rest") < 2.5
    (line,) = [each for each in service.log if each.get("code") == "200"]
    assert line["receive"] > 2.5 > line["seconds"]


async def test_latency_of_a_call_counts_from_the_end_of_its_message(launch: Launch, photo: bytes) -> None:
    service = launch()
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        call = channel.stream_unary("/pose.v1.PoseService/Estimate")()
        await call.wait_for_connection()
        await until(lambda: service.metric("pose_in_flight", api="grpc") == 1)
        await asyncio.sleep(3)
        await call.write(pose_pb2.EstimateRequest(image=photo).SerializeToString())
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.OK
    assert service.metric("pose_stage_seconds_sum", stage="receive") > 2.5
    assert service.metric("pose_request_seconds_sum", api="grpc") < 2.5


def test_a_query_that_is_too_long_is_refused(rest: RestClient) -> None:
    response = rest.http.post("/v1/poses?" + "&".join(f"a{n}=" for n in range(1000)))
    assert (response.status_code, response.json()["code"]) == (414, "query_too_long")
