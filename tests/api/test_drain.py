"""The drain has one deadline, even if clients are still connected."""

import asyncio
from time import monotonic

import grpc
import pytest

from lgm_pose_client.frames import StreamFrame
from lgm_pose_client.messages import config_message, frame_message
from service.wire.pb import pose_pb2_grpc
from tests.api.test_permits import opened
from tests.api.test_slow_readers import Sender, padded
from tests.support.service import Launch
from tests.support.streams import ALL

DRAIN_S = 3
REST_S = 8  # the last words over each protocol, the end of the worker, a busy machine


async def test_a_grpc_reader_that_stopped_delays_the_end_by_one_drain(launch: Launch, small: bytes) -> None:
    service = launch(drain_timeout_s=DRAIN_S)
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))
    async with grpc.aio.insecure_channel(service.grpc, options) as channel:
        call = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream()
        await call.write(config_message(ALL))
        sender = Sender(lambda n: call.write(frame_message(StreamFrame(n, padded(small)))), most=2000)
        await sender.held()
        assert sender.sent < 2000
        start = monotonic()
        service.terminate()
        assert await asyncio.to_thread(service.wait) == 0
        assert DRAIN_S - 1 < monotonic() - start < DRAIN_S + REST_S
        sender.stop()


@pytest.mark.parametrize("path", ["/v1/poses", "/v1/videos"])
async def test_an_upload_that_stopped_delays_the_end_by_one_drain(launch: Launch, path: str) -> None:
    service = launch(drain_timeout_s=DRAIN_S)
    kind = "image/jpeg" if path == "/v1/poses" else "video/mp4"
    with opened(service, path, kind, 1000):
        await asyncio.sleep(0.5)
        start = monotonic()
        service.terminate()
        assert await asyncio.to_thread(service.wait) == 0
        assert monotonic() - start < DRAIN_S + REST_S


async def test_an_upload_under_way_is_answered(launch: Launch, photo: bytes) -> None:
    service = launch(drain_timeout_s=20)
    with opened(service, "/v1/poses", "image/jpeg", len(photo)) as peer:
        peer.sendall(photo[:1000])
        await asyncio.sleep(0.5)
        service.terminate()
        await asyncio.sleep(0.5)
        peer.sendall(photo[1000:])
        assert peer.recv(12) == b"HTTP/1.1 200"
    assert await asyncio.to_thread(service.wait) == 0
