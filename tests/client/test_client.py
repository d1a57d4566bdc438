"""The client package and its command against a running service."""

import asyncio
import io
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lgm_pose_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    GrpcClient,
    HttpClient,
    Person,
    ServiceError,
    Skeleton,
    Timings,
)
from lgm_pose_client.coco import coco_results
from lgm_pose_client.drawing import draw_person
from lgm_pose_client.frames import Answer, Failed, Policy, StreamConfig, StreamFrame
from lgm_pose_client.types import Options, Poses, TrackedPerson
from model import keypoints
from service.core.image import decode
from tests.api.test_video import film
from tests.support.rtsp import RtspCamera
from tests.support.service import ROOT, Launch, Pixels, Service, encode

TRACKED = StreamConfig(policy=Policy.ALL, tracking=True)


def address(service: Service, over: str) -> str:
    return service.url if over == "http" else service.grpc


async def test_every_client_finds_the_same_persons(service: Service, photo: bytes) -> None:
    found: list[Poses] = []
    with HttpClient(service.url) as http, GrpcClient(service.grpc) as rpc:
        found += [await asyncio.to_thread(client.estimate, photo) for client in (http, rpc)]
    async with AsyncHttpClient(service.url) as http2, AsyncGrpcClient(service.grpc) as rpc2:
        found += [await http2.estimate(photo), await rpc2.estimate(photo)]
    first = found[0]
    assert len(first.persons) == 1
    for other in found[1:]:
        assert (other.width, other.height) == (512, 512)
        np.testing.assert_allclose(other.persons[0].bbox, first.persons[0].bbox)
        np.testing.assert_allclose(other.persons[0].keypoints, first.persons[0].keypoints, atol=1e-4)


async def test_every_client_gets_the_skeleton(service: Service) -> None:
    with HttpClient(service.url) as http, GrpcClient(service.grpc) as rpc:
        found = [await asyncio.to_thread(client.skeleton) for client in (http, rpc)]
    async with AsyncHttpClient(service.url) as http2, AsyncGrpcClient(service.grpc) as rpc2:
        found += [await http2.skeleton(), await rpc2.skeleton()]
    assert all(skeleton == Skeleton(keypoints.NAMES, keypoints.EDGES) for skeleton in found)


def test_coco_results_stay_inside_the_picture() -> None:
    person = Person((-5.0, 1.0, 60.0, 95.0), 0.8, ((10.0, 20.0, 0.9), (-3.0, 20.0, 0.3), (60.0, 90.4, 0.2)))
    (result,) = coco_results(7, Poses(50, 90, (person,), Timings(0, 0, 0, 0, 0)))
    assert result["keypoints"] == [10, 20, 0.9, 0, 20, 0.3, 49, 89, 0.2]
    assert result["image_id"] == 7


def test_other_skeletons_are_drawn() -> None:
    """As many keypoints as the network has: here three, of which two are joined."""
    image = Image.new("RGB", (100, 100))
    person = Person((0, 0, 100, 100), 1, ((20, 50, 1), (80, 50, 1), (50, 90, 1)))
    draw_person(image, person, Skeleton(("left_a", "left_b", "nose"), ((0, 1),)))
    assert image.getpixel((50, 50)) == (255, 140, 0)
    assert image.getpixel((50, 90)) == (80, 220, 80)
    assert image.getpixel((50, 70)) == (0, 0, 0)


async def test_options_and_pictures(service: Service, photo: bytes) -> None:
    async with AsyncHttpClient(service.url) as http:
        assert not (await http.estimate(photo, Options(min_score=1))).persons
        drawn = await http.draw(photo)
    assert decode(drawn).shape == (512, 512, 3)
    assert (decode(drawn) != decode(photo)).any()


@pytest.mark.parametrize(
    ("kind", "over", "code"),
    [(HttpClient, "http", "invalid_image"), (GrpcClient, "grpc", "invalid_argument")],
)
def test_refusals_have_a_code_and_a_reason(
    service: Service, kind: type[HttpClient] | type[GrpcClient], over: str, code: str
) -> None:
    with kind(address(service, over)) as client, pytest.raises(ServiceError, match="JPEG") as refused:
        client.estimate(b"nonsense")
    assert refused.value.code == code


async def test_an_unreachable_service_is_reported() -> None:
    with HttpClient("http://127.0.0.1:9") as http, pytest.raises(ServiceError, match="reached"):
        http.estimate(b"")
    with GrpcClient("127.0.0.1:9") as rpc, pytest.raises(ServiceError) as refused:
        rpc.estimate(b"")
    assert refused.value.code == "unavailable"
    async with AsyncGrpcClient("127.0.0.1:9") as rpc2:
        with pytest.raises(ServiceError):
            await rpc2.estimate(b"")


def test_a_blocking_stream(service: Service, photo: bytes) -> None:
    frames = [StreamFrame(10 + number, photo, 0.1 * number) for number in range(5)]
    with GrpcClient(service.grpc) as client:
        answers = list(client.stream(frames, TRACKED))
    assert [answer.frame_id for answer in answers] == [10, 11, 12, 13, 14]
    for answer in answers:
        assert isinstance(answer.outcome, Poses)
        (person,) = answer.outcome.persons
        assert isinstance(person, TrackedPerson)
        assert person.track_id == 1


async def test_videos(service: Service, pixels: Pixels) -> None:
    data = film(pixels)
    with HttpClient(service.url) as http:
        answers = await asyncio.to_thread(lambda: list(http.estimate_video(io.BytesIO(data), TRACKED)))
        with pytest.raises(ServiceError, match="not a video"):
            next(http.estimate_video(io.BytesIO(b"nonsense")))
    async with AsyncHttpClient(service.url) as http2:
        same = [answer async for answer in http2.estimate_video(io.BytesIO(data), TRACKED)]
    assert [each.frame_id for each in answers] == list(range(12))
    assert [persons(each) for each in answers] == [persons(each) for each in same]


def persons(answer: Answer) -> object:
    assert isinstance(answer.outcome, Poses)
    return answer.outcome.persons


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def test_a_stream_continues_after_a_restart_of_the_service(launch: Launch, photo: bytes) -> None:
    """The service is killed in mid-stream and started again; each frame is accounted for."""
    port, count, revived = free_port(), 30, asyncio.Event()
    service = launch(slow=True, grpc_port=port)

    async def camera() -> AsyncIterator[StreamFrame]:
        for number in range(count):
            if number == 20:
                await revived.wait()
            yield StreamFrame(number, photo)

    kinds: list[str] = []
    async with AsyncGrpcClient(f"127.0.0.1:{port}") as client:
        async for answer in client.stream(camera(), StreamConfig(policy=Policy.ALL)):
            assert answer.frame_id == len(kinds)
            kinds.append(answer.outcome.code if isinstance(answer.outcome, Failed) else "found")
            assert answer.counts.received == len(kinds)
            if len(kinds) == 5:
                service.process.kill()
                await asyncio.to_thread(service.process.wait)
                await asyncio.to_thread(launch, grpc_port=port)
                revived.set()
    assert len(kinds) == count
    assert set(kinds) == {"found", "connection_lost"}
    assert kinds[:5] == ["found"] * 5
    assert kinds[-5:] == ["found"] * 5  # the dead connection may have taken a few after the 20th
    assert answer.counts.errors == kinds.count("connection_lost")
    assert answer.counts.poses == kinds.count("found")


async def test_a_stream_ends_after_the_last_retry(photo: bytes) -> None:
    async def camera() -> AsyncIterator[StreamFrame]:
        yield StreamFrame(0, photo)

    async with AsyncGrpcClient("127.0.0.1:9") as client:
        with pytest.raises(ServiceError) as failed:
            async for answer in client.stream(camera(), give_up_s=0):
                assert isinstance(answer.outcome, Failed)
    assert failed.value.code == "unavailable"


async def test_an_error_of_the_source_ends_the_stream(service: Service, photo: bytes) -> None:
    async def camera() -> AsyncIterator[StreamFrame]:
        yield StreamFrame(0, photo)
        raise OSError("unplugged")

    seen = []
    async with AsyncGrpcClient(service.grpc) as client:
        with pytest.raises(OSError, match="unplugged"):
            async for answer in client.stream(camera(), StreamConfig(policy=Policy.ALL)):
                seen.append(answer.frame_id)
    assert seen == [0]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the command until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "lgm_pose_client", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_photos_become_json_and_pictures(service: Service, tmp_path: Path) -> None:
    photo = ROOT / "examples" / "astronaut.jpg"
    wrong = tmp_path / "wrong.jpg"
    wrong.write_bytes(b"nonsense")
    done = run(photo, wrong, photo, "--url", service.url, "--draw", tmp_path / "drawn")
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["file"] for each in found] == [str(photo)] * 2
    assert len(found[0]["persons"][0]["keypoints"]) == 17
    assert f"{wrong}: " in done.stderr
    assert "3/3" in done.stderr
    assert decode((tmp_path / "drawn" / "astronaut.jpg").read_bytes()).shape == (512, 512, 3)


def test_photos_become_coco_results(service: Service) -> None:
    photo = ROOT / "examples" / "astronaut.jpg"
    done = run(photo, photo, "--url", service.url, "--format", "coco")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [each["image_id"] for each in results] == [0, 1]
    assert len(results[0]["keypoints"]) == 51


@pytest.mark.parametrize("policy", ["all", "latest"])
def test_a_video_becomes_lines_and_an_annotated_video(
    service: Service, tmp_path: Path, pixels: Pixels, policy: str
) -> None:
    source, lines, out = tmp_path / "in.mp4", tmp_path / "out.jsonl", tmp_path / "out.mp4"
    source.write_bytes(film(pixels))
    done = run(
        *("stream", source, "--address", service.grpc, "--policy", policy),
        *("--json", lines, "--out", out, "--detect-every", 3),
    )
    assert done.returncode == 0, done.stderr
    assert "p50=" in done.stderr
    assert "12/12" in done.stderr
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [each["frame_id"] for each in answers] == list(range(12))
    counts = answers[-1]["counts"]
    assert counts["received"] == 12 == counts["poses"] + counts["dropped"]
    assert policy == "latest" or not counts["dropped"]
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(frames) == 12
    assert (frames[-1].max(2).astype(int) - frames[-1].min(2)).max() > 100  # colours of the skeleton


def test_a_folder_of_pictures_is_a_source(service: Service, tmp_path: Path, pixels: Pixels) -> None:
    for number, suffix in enumerate((".jpg", ".png", ".webp")):
        (tmp_path / f"{number}{suffix}").write_bytes(encode(pixels, suffix))
    (tmp_path / "notes.txt").write_text("no picture")
    lines = tmp_path / "out.jsonl"
    done = run("stream", tmp_path, "--address", service.grpc, "--policy", "all", "--json", lines)
    assert done.returncode == 0, done.stderr
    kinds = Counter(len(json.loads(line)["poses"]["persons"]) for line in lines.read_text().splitlines())
    assert kinds == {1: 3}


@pytest.mark.parametrize("name", ["nowhere.mp4", "pyproject.toml", "rtsp://127.0.0.1:9/camera", "99"])
def test_a_source_that_cannot_be_opened_is_reported_in_one_line(service: Service, name: str) -> None:
    done = run("stream", name, "--address", service.grpc)
    assert done.returncode == 1
    assert name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_help_and_wrong_options() -> None:
    for arguments in (["--help"], ["stream", "--help"]):
        done = run(*arguments)
        assert done.returncode == 0
        assert "lgm-pose-client" in done.stdout
    done = run("stream", ".", "--no-tracking", "--detect-every", "3")
    assert done.returncode == 1
    assert "need tracking" in done.stderr


def test_a_camera_is_a_source(service: Service, tmp_path: Path, pixels: Pixels) -> None:
    camera = RtspCamera([pixels[:192, :256]] * 40)
    lines = tmp_path / "out.jsonl"
    done = run("stream", camera.url, "--once", "--address", service.grpc, "--json", lines)
    camera.close()
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(answers) > 10
    counts = answers[-1]["counts"]
    assert counts["received"] == len(answers) == counts["poses"] + counts["dropped"]
    sizes = {(each["poses"]["width"], each["poses"]["height"]) for each in answers if "poses" in each}
    assert sizes == {(256, 192)}
