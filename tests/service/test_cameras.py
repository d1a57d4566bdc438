"""Streams over gRPC and WebSocket: order, sums, neighbours, peers that stop or vanish.

POSE_TEST_STREAMS and POSE_TEST_FRAMES set the size of the largest test, 8 x 100 unless given;
POSE_TEST_KILLS the number of clients that are killed, 3 unless given.
"""

import asyncio
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import orjson
import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from service.client import ServiceError
from service.frames import Policy, StreamConfig, StreamFrame
from service.messages import config_message, frame_message
from service.pb import pose_pb2, pose_pb2_grpc
from tests.conftest import ROOT, Launch, Pixels, Service, encode
from tests.service.test_lifecycle import post, until
from tests.streams import ALL, LATEST, PROTOCOLS, Answer, config_text, kind, stream, websocket_url

STREAMS = int(os.environ.get("POSE_TEST_STREAMS", 8))
FRAMES = int(os.environ.get("POSE_TEST_FRAMES", 100))
KILLS = int(os.environ.get("POSE_TEST_KILLS", 3))
OUTCOMES = {"poses": "poses", "dropped": "dropped", "error": "errors"}


@pytest.fixture(scope="module")
def small(pixels: Pixels) -> bytes:
    """A quick picture."""
    return encode(pixels[::4, ::4])


async def camera(frames: int, small: bytes, chance: random.Random) -> AsyncIterator[bytes]:
    """Frames at random moments, one in ten of them bad."""
    for _ in range(frames):
        await asyncio.sleep(chance.choice((0, 0, 0.001, 0.005, 0.02)))
        yield chance.choice((b"bad", small[:200])) if chance.random() < 0.1 else small


async def watch(service: Service, number: int, small: bytes) -> Counter[str]:
    """One stream from its first frame to its last, or to the moment at which its peer loses interest."""
    chance = random.Random(number)
    protocol = PROTOCOLS[number % 2]
    policy = (Policy.ALL, Policy.LATEST)[number // 2 % 2]
    tracked = chance.random() < 0.5
    config = StreamConfig(policy=policy, tracking=tracked, detect_every=3 if tracked else 1)
    leaves_at = chance.randrange(FRAMES) if number % 4 == 3 else FRAMES
    seen: Counter[str] = Counter()
    async for answer in stream(service, protocol, camera(FRAMES, small, chance), config):
        assert answer["frame_id"] == seen.total()
        seen[OUTCOMES[kind(answer)]] += 1
        assert answer["counts"] == {"received": seen.total(), "poses": 0, "dropped": 0, "errors": 0, **seen}
        if seen.total() == leaves_at:
            break
        await asyncio.sleep(chance.choice((0, 0, 0.01)))
    assert seen.total() == min(FRAMES, leaves_at or FRAMES)
    assert policy is Policy.LATEST or not seen["dropped"]
    return seen


async def test_every_frame_is_answered_once_in_order(service: Service, small: bytes) -> None:
    """Many streams of both protocols and policies, with bad frames, random delays and peers that leave."""
    work = [watch(service, number, small) for number in range(STREAMS)]
    seen = sum(await asyncio.gather(*work), Counter())
    assert seen["errors"] > 0
    assert seen["poses"] > 0
    await all_gone(service)


async def all_gone(service: Service) -> None:
    for api in ("grpc_stream", "websocket"):
        await until(lambda api=api: service.metric("pose_streams_open", api=api) == 0)  # type: ignore[misc]
        await until(lambda api=api: service.metric("pose_in_flight", api=api) == 0)  # type: ignore[misc]
    await until(lambda: service.metric("pose_queue_depth") == 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_slow_service_drops_under_latest_and_not_under_all(
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


def test_raw_pixels_are_the_picture(service: Service, pixels: Pixels) -> None:
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


class Sender:
    """Sends frames one after the other until told to stop."""

    def __init__(self, send: Callable[[int], Awaitable[None]], most: int) -> None:
        self.sent = 0
        self._send, self._most = send, most
        self._work = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self.sent < self._most:
            await self._send(self.sent)
            self.sent += 1

    async def held(self) -> None:
        """Returns once no frame has been taken for a while, or all have been sent."""
        before = -1
        while self.sent > before and not self._work.done():
            before = self.sent
            await asyncio.wait((self._work,), timeout=3)

    async def finish(self) -> None:
        """Returns once the frame that is held has been sent."""
        self._most = 0
        await self._work


@pytest.mark.parametrize("config", [ALL, LATEST], ids=["all", "latest"])
async def test_a_grpc_reader_that_stops_holds_its_sender_back_and_nobody_else(
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
async def test_a_websocket_reader_that_stops_disturbs_nobody_and_loses_nothing(
    service: Service, small: bytes, config: StreamConfig
) -> None:
    """Whether the sender is held back depends on how many answers the system's buffers take."""
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
    """Another stream is answered, and the service holds little more than it did."""
    other = [answer async for answer in stream(service, protocol, [small] * 20)]
    assert [kind(each) for each in other] == ["poses"] * 20
    assert resident_bytes(service) - memory < 64 * 2**20


def padded(picture: bytes) -> bytes:
    """A picture of 200 kB; what follows its end is not looked at."""
    return picture + b"\0" * 200_000


CLIENT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from types import SimpleNamespace
from tests.streams import stream, ALL, LATEST

async def watch(service, number, picture):
    async for _ in stream(service, ("grpc", "websocket")[number % 2], [picture] * 10**6, (ALL, LATEST)[number // 2 % 2]):
        print(number, flush=True)

async def main():
    picture = open({picture!r}, "rb").read()
    service = SimpleNamespace(url={url!r}, grpc={grpc!r})
    await asyncio.gather(*(watch(service, number, picture) for number in range(6)))

asyncio.run(main())
"""  # noqa: E501


async def test_clients_that_are_killed_leave_nothing(launch: Launch, small: bytes, tmp_path: Path) -> None:
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


def resident_bytes(service: Service) -> int:
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def open_files(service: Service) -> int:
    return len(os.listdir(f"/proc/{service.process.pid}/fd"))


async def kill_in_mid_stream(script: str) -> None:
    """Run six streams and kill their process once each has been answered."""
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_sigterm_answers_the_frames_taken_then_ends_the_stream(
    launch: Launch, photo: bytes, protocol: str
) -> None:
    service = launch(slow=True, max_batch=1)
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


async def test_a_stream_too_many_is_refused_over_both_protocols(launch: Launch, photo: bytes) -> None:
    service = launch(max_streams=1)
    first = stream(service, "grpc", endless_after_one(photo))
    await anext(first)
    lost = []
    with pytest.raises(ServiceError, match="places for streams") as refused:
        async for answer in stream(service, "grpc", [photo]):
            lost.append(answer)
    assert refused.value.code == "resource_exhausted"
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
    """All that comes back over WebSocket, and the code with which it is closed."""
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
async def test_a_conversation_that_goes_wrong_is_ended_with_the_reason(
    service: Service, messages: list[str | bytes], word: str
) -> None:
    answers, code = await conversation(service, messages)
    assert code == 1008
    assert answers[-1]["error"]["code"] == "invalid_argument"
    assert word in answers[-1]["error"]["message"] or word == "more"


async def test_a_config_that_does_not_come_ends_the_stream(launch: Launch) -> None:
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
def test_a_config_that_makes_no_sense_ends_a_grpc_stream(
    service: Service, config: pose_pb2.StreamConfig
) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.EstimateStream(iter([pose_pb2.EstimateStreamRequest(config=config)])))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_camera_ids_make_no_series(service: Service, small: bytes) -> None:
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
