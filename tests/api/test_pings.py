"""Keepalive pings of gRPC clients at a common interval are served."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.service import Service

PINGING = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


async def test_pings_every_ten_seconds_with_and_without_calls(service: Service) -> None:
    options = (*PINGING, ("grpc.use_local_subchannel_pool", 1))
    async with (
        grpc.aio.insecure_channel(service.grpc, options) as quiet,
        grpc.aio.insecure_channel(service.grpc, options) as idle,
    ):
        stream = pose_pb2_grpc.PoseServiceStub(quiet).EstimateStream()
        config = pose_pb2.StreamConfig(policy=pose_pb2.POLICY_ALL)
        await stream.write(pose_pb2.EstimateStreamRequest(config=config))
        await health_pb2_grpc.HealthStub(idle).Check(health_pb2.HealthCheckRequest())
        states = []
        for _ in range(46):
            states.append(idle.get_state())
            await asyncio.sleep(1)
        assert set(states) == {grpc.ChannelConnectivity.READY}
        assert not stream.done()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK
