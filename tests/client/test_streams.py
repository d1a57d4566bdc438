"""Streams of the client: broken connections, ids, frames that cannot be sent."""

import asyncio
import socket
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from lgm_pose_client import (
    Answer,
    AsyncGrpcClient,
    Failed,
    GrpcClient,
    Policy,
    Poses,
    RawImage,
    ServiceError,
    StreamConfig,
    StreamFrame,
    TrackedPerson,
)
from lgm_pose_client import grpc as client_grpc
from tests.support.relay import Relay
from tests.support.service import Launch, Pixels, Service

ALL = StreamConfig(policy=Policy.ALL)
TRACKED = StreamConfig(policy=Policy.ALL, tracking=True)


@pytest.fixture
def relay(service: Service) -> Iterator[Relay]:
    relay = Relay(int(service.grpc.rsplit(":", 1)[1]))
    yield relay
    relay.close()


async def test_a_connection_that_passes_no_bytes_is_replaced(
    relay: Relay, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay stays open. Every frame is accounted for."""
    monkeypatch.setattr(client_grpc, "KEEPALIVE_S", 1.0)
    monkeypatch.setattr(client_grpc, "PING_TIMEOUT_S", 1.0)
    answers: list[Answer] = []
    noticed = asyncio.Event()

    async def camera() -> AsyncIterator[StreamFrame]:
        for number in range(60):
            if number == 30:
                await noticed.wait()
            yield StreamFrame(number, small, number / 20)
            await asyncio.sleep(0.02)

    async with AsyncGrpcClient(f"127.0.0.1:{relay.port}") as client:
        async for answer in client.stream(camera(), TRACKED):
            answers.append(answer)
            if len(answers) == 5:
                relay.fall_silent()
            if isinstance(answer.outcome, Failed):
                noticed.set()
    assert [answer.frame_id for answer in answers] == list(range(60))
    kinds = Counter(type(answer.outcome) for answer in answers)
    assert kinds.keys() == {Poses, Failed}
    counts = answers[-1].counts
    assert (counts.received, counts.poses, counts.errors) == (60, kinds[Poses], kinds[Failed])
    assert isinstance(answers[-1].outcome, Poses)
    assert [answer.time for answer in answers] == [number / 20 for number in range(60)]


def test_the_defaults_notice_it_within_half_a_minute() -> None:
    assert 2 * client_grpc.KEEPALIVE_S + client_grpc.PING_TIMEOUT_S <= 30


async def test_track_ids_are_never_used_again_after_a_restart(launch: Launch, small: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = launch(grpc_port=port)
    again = asyncio.Event()

    async def frames() -> AsyncIterator[StreamFrame]:
        for number in range(12):
            if number == 6:
                await again.wait()
            yield StreamFrame(number, small, number / 10)

    ids: list[set[int]] = []
    async with AsyncGrpcClient(f"127.0.0.1:{port}") as client:
        async for answer in client.stream(frames(), TRACKED):
            if isinstance(answer.outcome, Poses):
                ids.append({p.track_id for p in answer.outcome.persons if isinstance(p, TrackedPerson)})
            if answer.frame_id == 5:
                await asyncio.to_thread(service.close)
                await asyncio.to_thread(launch, grpc_port=port)
                again.set()
    before, after = set().union(*ids[:6]), set().union(*ids[6:])
    assert before == {1}
    assert after == {2}


def test_a_frame_id_out_of_range_is_refused_at_once() -> None:
    for frame_id in (-1, 2**64):
        with pytest.raises(ValueError, match="frame_id"):
            StreamFrame(frame_id, b"")
    assert StreamFrame(2**64 - 1, b"").frame_id == 2**64 - 1


BAD = {
    "no file": (FileNotFoundError, "nowhere.jpg"),
    "no picture": (ValueError, np.zeros((2, 2), np.uint8)),
    "nothing": (AttributeError, None),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_frame_that_cannot_be_sent_ends_the_stream_with_the_reason(
    service: Service, small: bytes, bad: str
) -> None:
    error, picture = BAD[bad]
    frames = [StreamFrame(0, small), StreamFrame(1, picture)]  # type: ignore[arg-type]

    async def stream() -> AsyncIterator[StreamFrame]:
        for frame in frames:
            yield frame

    seen = []
    async with AsyncGrpcClient(service.grpc) as client:
        with pytest.raises(error):
            async for answer in client.stream(stream(), ALL):
                seen.append(answer.frame_id)
    assert seen == [0]
    with GrpcClient(service.grpc) as blocking, pytest.raises(error):
        for answer in blocking.stream(frames, ALL):
            seen.append(answer.frame_id)
    assert seen == [0, 0]


def test_what_a_source_raises_in_a_blocking_stream_is_raised(service: Service, small: bytes) -> None:
    def frames() -> Iterator[StreamFrame]:
        yield StreamFrame(0, small)
        raise OSError("unplugged")

    seen = []
    with GrpcClient(service.grpc) as client, pytest.raises(OSError, match="unplugged"):
        for answer in client.stream(frames(), ALL):
            seen.append(answer.frame_id)
    assert seen == [0]


async def test_a_frame_that_is_too_large_fails_at_once_with_the_setting(launch: Launch, small: bytes) -> None:
    service = launch(max_body_bytes=200_000)
    raw = RawImage(bytes(300 * 300 * 3), 300, 300)

    async def frames() -> AsyncIterator[StreamFrame]:
        yield StreamFrame(0, small)
        for number in range(1, 20):
            yield StreamFrame(number, raw)
            await asyncio.sleep(0.2)

    answers = []
    async with AsyncGrpcClient(service.grpc) as client:
        with pytest.raises(ServiceError, match=r"larger than max.*POSE_MAX_BODY_BYTES") as refused:
            async for answer in client.stream(frames(), ALL):
                answers.append(answer)
        assert refused.value.code == "too_large"
        with pytest.raises(ServiceError, match="POSE_MAX_BODY_BYTES"):
            await client.estimate(bytes(300_000))
    assert len(answers) < 10  # it does not go on with the next frames
    with GrpcClient(service.grpc) as blocking, pytest.raises(ServiceError, match="POSE_MAX_BODY_BYTES"):
        list(blocking.stream([StreamFrame(0, raw)], ALL))


@pytest.mark.parametrize(("step", "warned"), [(33.0, True), (1.6, True), (0.033, False), (1.5, False)])
async def test_timestamps_in_milliseconds_are_warned_of(
    service: Service, small: bytes, step: float, warned: bool
) -> None:
    frames = [StreamFrame(number, small, number * step) for number in range(8)]

    async def stream() -> AsyncIterator[StreamFrame]:
        for frame in frames:
            yield frame

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        async with AsyncGrpcClient(service.grpc) as client:
            assert len([answer async for answer in client.stream(stream(), TRACKED)]) == 8
        with GrpcClient(service.grpc) as blocking:
            assert len(list(blocking.stream(frames, TRACKED))) == 8
            assert len(list(blocking.stream(frames, ALL))) == 8
    assert [str(each.message) for each in seen if "seconds" in str(each.message)] == (
        [f"timestamps are {step:g} s apart, and a track ends 1.5 s after its last person: "
         "give seconds, not milliseconds"] * 2 if warned else []
    )  # fmt: skip


async def test_pictures_are_paths_bytes_or_arrays(service: Service, pixels: Pixels, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes((Path(__file__).parents[2] / "examples" / "astronaut.jpg").read_bytes())
    given = [photo, str(photo), photo.read_bytes(), pixels, pixels[:, ::-1][:, ::-1]]
    with GrpcClient(service.grpc) as client:
        found = [client.estimate(each).persons for each in given]
        streamed = list(client.stream([StreamFrame(n, each) for n, each in enumerate(given)], ALL))
    async with AsyncGrpcClient(service.grpc) as rpc:
        found += [(await rpc.estimate(each)).persons for each in given]
    for outcome in (answer.outcome for answer in streamed):
        assert isinstance(outcome, Poses)
        found.append(outcome.persons)
    assert {len(persons) for persons in found} == {1}
    for (person,) in found:
        np.testing.assert_allclose(person.bbox, found[0][0].bbox, atol=1)
        np.testing.assert_allclose(person.keypoints, found[0][0].keypoints, atol=2)
