"""Timestamps in another unit than seconds are refused where they would cost each person its id."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.service import Service

FRAMES = 14


async def ask(
    service: Service, small: bytes, timestamps: Callable[[int], float], *, tracking: bool
) -> tuple[grpc.StatusCode, str, set[int]]:
    """The status and detail of a stream of FRAMES frames, 30 a second, and the ids of its persons."""
    ids: set[int] = set()
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        call = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream()
        config = pose_pb2.StreamConfig(tracking=tracking, policy=pose_pb2.POLICY_ALL)
        await call.write(pose_pb2.EstimateStreamRequest(config=config))

        async def send() -> None:
            for number in range(FRAMES):
                frame = pose_pb2.Frame(frame_id=number, image=small, timestamp=timestamps(number))
                await call.write(pose_pb2.EstimateStreamRequest(frame=frame))
                await asyncio.sleep(1 / 30)
            await call.done_writing()

        sending = asyncio.create_task(send())
        try:
            async for answer in call:
                assert answer.time == timestamps(answer.frame_id)
                ids |= {person.track_id for person in answer.poses.persons if person.HasField("track_id")}
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or "", ids
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return grpc.StatusCode.OK, "", ids


async def test_seconds_by_any_clock_keep_the_ids(service: Service, small: bytes) -> None:
    for start in (0.0, 1.7e9, -5.0):
        status, detail, ids = await ask(service, small, lambda n, start=start: start + n / 30, tracking=True)
        assert (status, detail) == (grpc.StatusCode.OK, "")
        assert ids == {1}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        pytest.param(1.7e12, "the timestamp 1700000000000 is not in seconds", id="since 1970"),
        pytest.param(0.0, "not milliseconds", id="since the start"),
    ],
)
async def test_milliseconds_are_refused(service: Service, small: bytes, start: float, message: str) -> None:
    status, detail, _ = await ask(service, small, lambda n: start + n * 33, tracking=True)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert message in detail


async def test_without_tracking_any_unit_does(service: Service, small: bytes) -> None:
    status, *_ = await ask(service, small, lambda n: 1.7e12 + n * 33, tracking=False)
    assert status is grpc.StatusCode.OK


async def test_a_clock_that_is_set_once_is_no_fault(service: Service, small: bytes) -> None:
    status, *_ = await ask(service, small, lambda n: n / 30 + 3600 * (n > 5), tracking=True)
    assert status is grpc.StatusCode.OK
