"""The stack in a real Docker engine: `make test-compose`. Grafana's image is large and is left out."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import cv2
import grpc
import httpx
import pytest

from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.compose.stack import compose, container, docker, engine_runs, fetch, inspect, published
from tests.support.clients import JPEG
from tests.support.service import ROOT, Pixels

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not engine_runs(), reason="no Docker engine with compose runs on this machine"),
]
CALLERS = 8


@pytest.fixture(scope="module")
def stack() -> Iterator[str]:
    """URL of the service, built and started together with a Prometheus."""
    docker(
        "build", "--network", "host", "--file", f"{ROOT}/docker/Dockerfile", "--tag", "lgm-pose", str(ROOT)
    )
    fetch("prometheus")
    try:
        compose("up", "--detach", "--no-build", "pose", "prometheus")
        for service in ("pose", "prometheus"):
            _wait_until_healthy(container(service))
        yield f"http://{published('pose', 8000)}"
    finally:
        compose("down", "--volumes")


def _wait_until_healthy(ident: str) -> None:
    """Follows the engine's events, starting with those of the last minutes."""
    events = ["docker", "events", "--since", "30m", "--filter", f"container={ident}", "--filter"]
    with subprocess.Popen([*events, "event=health_status"], stdout=subprocess.PIPE, text=True) as follow:
        assert follow.stdout is not None
        status = next(follow.stdout)
        follow.terminate()
    assert "health_status: healthy" in status, docker("inspect", "--format", "{{json .State.Health}}", ident)


def test_a_photo_is_answered(stack: str, photo: bytes) -> None:
    answer = httpx.post(f"{stack}/v1/poses", files={"image": photo}, timeout=60)
    assert answer.status_code == 200
    persons = answer.json()["results"][0]["persons"]
    assert len(persons) >= 1 and all(len(person["keypoints"]) == 17 for person in persons)


def test_a_photo_is_answered_over_grpc(stack: str, photo: bytes) -> None:
    with grpc.insecure_channel(published("pose", 50051)) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        answer = stub.Estimate(pose_pb2.EstimateRequest(image=photo), timeout=60)
    assert len(answer.poses.persons) >= 1


def test_many_images_at_once_are_answered(stack: str, photo: bytes) -> None:
    files = [("image", (f"{index}.jpg", photo)) for index in range(48)]
    answer = httpx.post(f"{stack}/v1/poses", files=files, timeout=600)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == len(files)


def test_a_video_is_answered_frame_by_frame(stack: str, pixels: Pixels, tmp_path: Path) -> None:
    height, width = pixels.shape[:2]
    path = tmp_path / "video.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for _ in range(5):
        writer.write(pixels)
    writer.release()
    headers = {"content-type": "video/mp4"}
    answer = httpx.post(f"{stack}/v1/videos", content=path.read_bytes(), headers=headers, timeout=120)
    assert answer.status_code == 200
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert len(lines) == 5 and not any("error" in line for line in lines)


def test_the_container_has_minimal_rights(stack: str) -> None:
    host = inspect("pose")["HostConfig"]
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"]
    probe = "import os; print(os.getuid(), os.getgid()); open('/opt/probe', 'w')"
    done = subprocess.run(
        ["docker", "exec", container("pose"), "python", "-c", probe], capture_output=True, text=True
    )
    assert done.stdout.split() == ["65532", "65532"]
    assert "Read-only file system" in done.stderr


def test_the_image_holds_what_serving_needs_and_no_more(stack: str) -> None:
    probe = (
        "import importlib.util as u; print([n for n in ('torch', 'onnx', 'pytest', 'pip') if u.find_spec(n)])"
    )
    assert docker("exec", container("pose"), "python", "-c", probe).strip() == "[]"


def test_threads_follow_the_limit(stack: str) -> None:
    probe = "from service.inference.cpu import available_cpus; print(available_cpus())"
    assert docker("exec", container("pose"), "python", "-c", probe).strip() == "1"


def test_prometheus_scrapes_the_service_and_knows_the_rules(stack: str) -> None:
    url = f"http://{published('prometheus', 9090)}"
    with httpx.Client(base_url=url, timeout=30) as http:
        while not (up := http.get("/api/v1/query", params={"query": "up"}).json()["data"]["result"]):
            pass
        (group,) = http.get("/api/v1/rules").json()["data"]["groups"]
    assert [(series["metric"]["job"], series["value"][1]) for series in up] == [("pose", "1")]
    assert group["name"] == "pose"


def test_a_stop_under_load_loses_no_answers(stack: str, photo: bytes) -> None:
    """Clients have received every answer that the service has logged."""
    ident, started = container("pose"), Barrier(2 * CALLERS + 1, timeout=120)
    before = _logged(ident)
    grpc_address = published("pose", 50051)
    with ThreadPoolExecutor(2 * CALLERS) as callers:
        rest = [callers.submit(_post_until_refused, stack, photo, started) for _ in range(CALLERS)]
        grpc_ = [callers.submit(_call_until_refused, grpc_address, photo, started) for _ in range(CALLERS)]
        started.wait()  # all have been answered once and go on
        docker("stop", "-t", "45", ident)
        received = Counter(
            rest=sum(each.result(timeout=120) for each in rest),
            grpc=sum(each.result(timeout=120) for each in grpc_),
        )
    answered = _logged(ident) - before
    assert {api: answered[api, code] for api, code in (("rest", "200"), ("grpc", "OK"))} == received
    assert {code for _, code in answered} <= {"200", "OK", "503", "UNAVAILABLE"}
    assert inspect("pose")["State"]["ExitCode"] == 0
    assert not inspect("pose")["State"]["OOMKilled"]


def _logged(ident: str) -> Counter[tuple[str, str]]:
    """The number of requests that the container has logged, by API and code."""
    lines = [json.loads(line) for line in docker("logs", ident).splitlines() if line.startswith("{")]
    return Counter((line["api"], line["code"]) for line in lines if line["message"] == "request")


def _post_until_refused(url: str, photo: bytes, started: Barrier) -> int:
    """The number of successful answers before the service ended."""
    answers = 0
    with httpx.Client(base_url=url, timeout=60) as http:
        while True:
            try:
                status = http.post("/v1/poses", content=photo, headers=JPEG).status_code
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                return answers
            if status != 200:
                assert status == 503
                return answers
            answers += 1
            if answers == 1:
                started.wait()


def _call_until_refused(address: str, photo: bytes, started: Barrier) -> int:
    """The number of successful answers before the service ended."""
    answers = 0
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        while True:
            try:
                stub.Estimate(pose_pb2.EstimateRequest(image=photo), timeout=60)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                return answers
            answers += 1
            if answers == 1:
                started.wait()
