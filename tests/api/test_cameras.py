"""Streams over gRPC and WebSocket: order, sums, policies, refusals.

POSE_TEST_STREAMS and POSE_TEST_FRAMES set the size of the largest test, 8 x 100 unless given.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import grpc
import httpx
import orjson
import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from lgm_pose_client import ServiceError
from lgm_pose_client.frames import Policy, StreamConfig
from lgm_pose_client.messages import config_message
from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.service import Launch, Pixels, Service, encode
from tests.support.streams import (
    ALL,
    LATEST,
    PROTOCOLS,
    Answer,
    all_gone,
    config_text,
    kind,
    stream,
    websocket_url,
)

STREAMS = int(os.environ.get("POSE_TEST_STREAMS", 8))
FRAMES = int(os.environ.get("POSE_TEST_FRAMES", 100))
OUTCOMES = {"poses": "poses", "dropped": "dropped", "error": "errors"}


async def camera(frames: int, small: bytes, chance: random.Random) -> AsyncIterator[bytes]:
    """Frames at random times, one in ten of them invalid."""
    for _ in range(frames):
        await asyncio.sleep(chance.choice((0, 0, 0.001, 0.005, 0.02)))
        yield chance.choice((b"bad", small[:200])) if chance.random() < 0.1 else small


async def watch(service: Service, number: int, small: bytes) -> Counter[str]:
    """One stream until its last frame or until its client disconnects."""
    chance = random.Random(number)
    protocol = PROTOCOLS[number % 2]
    policy = (Policy.ALL, Policy.LATEST)[number // 2 % 2]
    tracked = chance.random() < 0.5
    config = StreamConfig(policy=policy, tracking=tracked, detect_every=3 if tracked else 1)
    leaves_at = chance.randrange(FRAMES) if number % 4 == 3 else FRAMES
    seen: Counter[str] = Counter()
    pictures = camera(FRAMES, small, chance)
    async with aclosing(stream(service, protocol, pictures, config)) as answers:
        async for answer in answers:
            assert answer["frame_id"] == seen.total()
            seen[OUTCOMES[kind(answer)]] += 1
            counts = {"received": seen.total(), "poses": 0, "dropped": 0, "errors": 0, **seen}
            assert answer["counts"] == counts
            if seen.total() == leaves_at:
                break
            await asyncio.sleep(chance.choice((0, 0, 0.01)))
    assert seen.total() == min(FRAMES, leaves_at or FRAMES)
    assert policy is Policy.LATEST or not seen["dropped"]
    return seen


async def test_every_frame_is_answered_once_in_order(service: Service, small: bytes) -> None:
    """Many streams of both protocols and policies, with bad frames, random delays and disconnects."""
    work = [watch(service, number, small) for number in range(STREAMS)]
    seen = sum(await asyncio.gather(*work), Counter())
    assert seen["errors"] > 0
    assert seen["poses"] > 0
    await all_gone(service)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_slow_service_drops_frames_only_under_latest(
    launch: Launch, photo: bytes, protocol: str
) -> None:
    service = launch(slow=True)

    async def quick() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield photo
            await asyncio.sleep(0.01)

    latest = [answer async for answer in stream(service, protocol, quick(), LATEST)]
    kinds = Counter(map(kind, latest))
    assert kinds.keys() == {"poses", "dropped"}
    assert kinds.total() == 20
    assert kind(latest[-1]) == "poses"
    assert {each["dropped"]["reason"] for each in latest if kind(each) == "dropped"} == {"superseded"}
    labels = {"outcome": "dropped", "policy": "latest"}
    assert service.metric("pose_stream_frames_total", **labels) == kinds["dropped"]
    every = [answer async for answer in stream(service, protocol, [photo] * 8, ALL)]
    assert [kind(each) for each in every] == ["poses"] * 8


async def test_both_protocols_find_the_same_tracked_persons(
    service: Service, photo: bytes, pixels: Pixels
) -> None:
    config = StreamConfig(policy=Policy.ALL, tracking=True, smoothing=True)
    pictures = [photo, encode(pixels, ".png"), photo, encode(pixels, ".webp")]
    found = {
        protocol: [answer async for answer in stream(service, protocol, pictures, config)]
        for protocol in PROTOCOLS
    }
    ids = [[person["track_id"] for person in each["poses"]["persons"]] for each in found["grpc"]]
    assert ids == [[1]] * 4
    for one, other in zip(found["grpc"], found["websocket"], strict=True):
        assert one["counts"] == other["counts"]
        for a, b in zip(one["poses"]["persons"], other["poses"]["persons"], strict=True):
            assert a["track_id"] == b["track_id"]
            assert a["bbox"] == pytest.approx(b["bbox"], abs=0.01)


def test_raw_pixels_give_the_same_persons(service: Service, pixels: Pixels) -> None:
    config = config_message(ALL)
    height, width = pixels.shape[:2]
    order = pose_pb2.RawImage.Order
    frames = [
        pose_pb2.Frame(image=encode(pixels, ".png")),
        pose_pb2.Frame(raw=_raw(pixels, order.BGR)),
        pose_pb2.Frame(raw=_raw(pixels[..., ::-1], order.RGB)),
        pose_pb2.Frame(raw=pose_pb2.RawImage(data=b"abc", width=width, height=height)),
    ]
    requests = [config, *(pose_pb2.EstimateStreamRequest(frame=each) for each in frames)]
    with grpc.insecure_channel(service.grpc) as channel:
        answers = list(pose_pb2_grpc.PoseServiceStub(channel).EstimateStream(iter(requests)))
    first, second, third, wrong = answers
    assert first.poses.persons
    assert first.poses.persons == second.poses.persons == third.poses.persons
    assert wrong.error.code == "invalid_image"


def _raw(pixels: Pixels, order: "pose_pb2.RawImage.Order") -> pose_pb2.RawImage:
    return pose_pb2.RawImage(
        data=pixels.tobytes(), width=pixels.shape[1], height=pixels.shape[0], order=order
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_sigterm_answers_the_frames_taken_then_ends_the_stream(
    launch: Launch, photo: bytes, protocol: str
) -> None:
    service = launch(slow=True, threads=1)
    answers = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield photo
            await asyncio.sleep(0)

    with pytest.raises((ServiceError, ConnectionClosed)) as ended:
        async for answer in stream(service, protocol, endless(), ALL):
            if kind(answer) == "poses" and not answers:
                service.terminate()
            answers.append(answer)
    if isinstance(ended.value, ServiceError):
        assert ended.value.code == "unavailable"
        done = [each for each in answers if kind(each) == "poses"]
    else:
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1012
        assert answers.pop()["error"]["code"] == "shutting_down"
        done = answers
    assert len(done) >= 4  # those that the window held at the signal
    assert [each["frame_id"] for each in done] == list(range(len(done)))
    assert await asyncio.to_thread(service.wait) == 0
    (end,) = [line for line in service.log if line["message"] == "stream ended"]
    assert end["poses"] == end["received"] == len(done)


async def test_streams_over_the_limit_are_refused(launch: Launch, photo: bytes) -> None:
    service = launch(max_streams=1)
    first = stream(service, "grpc", endless_after_one(photo))
    await anext(first)
    code = "unavailable"
    while code == "unavailable":  # grpc loses the status where it meets the writing of a frame
        lost = []
        with pytest.raises(ServiceError) as refused:
            async for answer in stream(service, "grpc", [photo]):
                lost.append(answer)
        code = refused.value.code
    assert code == "resource_exhausted" and "places for streams" in str(refused.value)
    assert [each["error"]["code"] for each in lost] in ([], ["connection_lost"])
    refusal, code = await conversation(service, [config_text(ALL), photo])
    assert (refusal[-1]["error"]["code"], code) == ("overloaded", 1013)
    await first.aclose()
    await all_gone(service)
    assert [kind(each) async for each in stream(service, "websocket", [photo])] == ["poses"]


async def endless_after_one(photo: bytes) -> AsyncIterator[bytes]:
    yield photo
    await asyncio.Event().wait()


async def conversation(service: Service, messages: list[str | bytes]) -> tuple[list[Answer], int]:
    """All messages received over WebSocket, and the close code."""
    async with websockets.connect(websocket_url(service)) as peer:
        for message in messages:
            await peer.send(message)
        answers = []
        with suppress(ConnectionClosed):
            async for message in peer:
                answers.append(orjson.loads(message))
    assert peer.close_code is not None
    return answers, peer.close_code


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        (["nonsense"], "JSON"),
        ([b"a picture"], "config"),
        (['{"policy": "newest"}'], "policy"),
        (['{"colour": "red"}'], "colour"),
        (['{"smoothing": true}'], "tracking"),
        (['{"camera_id": "a b"}'], "camera_id"),
        (['{"min_score": 2}'], "min_score"),
        (["{}", "more"], "more"),
    ],
)
async def test_an_invalid_message_ends_the_stream_with_a_reason(
    service: Service, messages: list[str | bytes], word: str
) -> None:
    answers, code = await conversation(service, messages)
    assert code == 1008
    assert answers[-1]["error"]["code"] == "invalid_argument"
    assert word in answers[-1]["error"]["message"] or word == "more"


async def test_a_missing_config_ends_the_stream(launch: Launch) -> None:
    service = launch(receipt_timeout_s=0.2)
    answers, code = await conversation(service, [])
    assert (answers[-1]["error"]["code"], code) == ("receipt_timeout", 1008)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        call = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream()
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_frame_over_the_limit_ends_a_websocket_stream(launch: Launch, photo: bytes) -> None:
    service = launch(max_body_bytes=200_000)
    answers, code = await conversation(service, [config_text(ALL), photo, b"\0" * 200_001])
    assert code == 1009
    assert [kind(each) for each in answers] in ([], ["poses"])
    await all_gone(service)


@pytest.mark.parametrize(
    "config",
    [
        pose_pb2.StreamConfig(policy=7),  # type: ignore[arg-type]
        pose_pb2.StreamConfig(camera_id="a b"),
        pose_pb2.StreamConfig(detect_every=3),
        pose_pb2.StreamConfig(tracking=True, detect_every=101),
        pose_pb2.StreamConfig(options=pose_pb2.Options(min_score=2)),
    ],
)
def test_an_invalid_config_ends_a_grpc_stream(service: Service, config: pose_pb2.StreamConfig) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.EstimateStream(iter([pose_pb2.EstimateStreamRequest(config=config)])))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_camera_ids_create_no_metric_series(service: Service, small: bytes) -> None:
    def series() -> int:
        lines = httpx.get(f"{service.url}/metrics").text.splitlines()
        return len([line for line in lines if not line.startswith("#")])

    for protocol in PROTOCOLS:
        [answer async for answer in stream(service, protocol, [small], ALL)]
    before = series()
    for number in range(10):
        config = StreamConfig(policy=Policy.ALL, camera_id=f"camera-{number}")
        for protocol in PROTOCOLS:
            [answer async for answer in stream(service, protocol, [small], config)]
    assert series() == before
    await asyncio.to_thread(service.wait_for_log, "stream ended")
    assert "camera-9" in {line.get("camera_id") for line in service.log}
