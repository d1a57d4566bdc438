"""docs/architecture.md names the functions and modules that a real photo and a real frame go through."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.networks import save_networks
from tests.support.service import ROOT, Pixels, Service, encode

MOST_STOPS = 12
# modules that every request uses, whatever it asks for
EVERYWHERE = (
    "service.config",
    "service.errors",
    "service.observability.",
    "service.security.",
    "service.types",
)


def documented(title: str) -> tuple[list[str], set[str]]:
    """The functions of a numbered list of docs/architecture.md, and the further modules that it names."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split(f"### {title}\n")[1].split("\n#")[0]
    stops = re.findall(r"^\d+\. `([\w.]+)`", section, re.MULTILINE)
    helpers = section.split("The stops call ")[1]
    return stops, set(re.findall(r"`([\w.]+)`", helpers))


def post(service: Service, image: bytes) -> None:
    answer = httpx.post(
        f"{service.url}/v1/poses", files={"image": ("a.jpg", image, "image/jpeg")}, timeout=60
    )
    assert answer.json()["results"][0]["persons"]


def stream(service: Service, image: bytes) -> None:
    def requests() -> Iterator[pose_pb2.EstimateStreamRequest]:
        yield pose_pb2.EstimateStreamRequest(config=pose_pb2.StreamConfig(tracking=True, skip_unchanged=True))
        yield pose_pb2.EstimateStreamRequest(frame=pose_pb2.Frame(frame_id=1, image=image))

    with grpc.insecure_channel(service.grpc) as channel:
        (answer,) = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream(requests(), timeout=60)
        assert answer.poses.persons


def module_of(function: str) -> str:
    """The module in a function's full name: the longest prefix that is a file."""
    parts = function.split(".")
    while not (ROOT / "/".join(parts)).with_suffix(".py").is_file():
        parts.pop()
    return ".".join(parts)


@pytest.mark.parametrize(
    ("title", "send", "end"),
    [("A photo", post, "request"), ("A frame", stream, "stream ended")],
    ids=["photo", "frame"],
)
def test_the_path_in_the_documents_is_the_path_of_a_request(
    title: str, send: Callable[[Service, bytes], None], end: str, pixels: Pixels, tmp_path: Path
) -> None:
    stops, helpers = documented(title)
    assert len(stops) <= MOST_STOPS
    out, first = tmp_path / "calls", module_of(stops[0])
    command = ("-m", "tests.support.traced_service", str(out), stops[0].removeprefix(f"{first}."))
    service = Service(command=command, weights=save_networks(tmp_path), threads=1, runtime="onnx")
    try:
        send(service, encode(pixels[::2, ::2]))
        service.wait_for_log(end)
        calls = out.read_text().split()
    finally:
        service.close()
    assert [call for call in calls if call in stops] == stops
    modules = {module_of(call) for call in calls} - {module_of(stop) for stop in stops}
    assert {name for name in modules if not name.startswith(EVERYWHERE)} == helpers
