"""Uploads of videos: forms, what is refused before the upload, and a disk that is full."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from tests.api.test_video import MP4, film
from tests.support.service import ROOT, Launch, Pixels, Service
from tests.support.streams import ALL, config_text, websocket_url


@pytest.fixture(scope="module")
def video(pixels: Pixels) -> bytes:
    return film(pixels)


def answer_before_the_body(service: Service, length: int) -> bytes:
    """The first bytes of the answer to the head of a video whose body waits for `100 Continue`."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as peer:
        peer.sendall(
            b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-type: video/mp4\r\n"
            b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % length
        )
        return peer.recv(12)


def test_a_form_is_taken(service: Service, video: bytes) -> None:
    for name in ("video", "file"):
        response = httpx.post(f"{service.url}/v1/videos", files={name: ("a.mp4", video)}, timeout=60)
        assert response.status_code == 200, response.text
        assert len(response.text.splitlines()) == 13


def test_forms_that_are_refused(service: Service, video: bytes) -> None:
    for files, words in (
        ([("video", ("a.mp4", video)), ("video", ("b.mp4", video))], "more than one video"),
        ([("image", ("a.mp4", video))], "unknown form field 'image'"),
    ):
        response = httpx.post(f"{service.url}/v1/videos", files=files, timeout=60)
        assert (response.status_code, words in response.json()["detail"]) == (422, True)
    request = httpx.Request("POST", "http://x", files={"video": ("a.mp4", video)})
    headers = {"content-type": request.headers["content-type"]}
    response = httpx.post(f"{service.url}/v1/videos", content=request.read()[:-30], headers=headers)
    assert (response.status_code, "truncated" in response.json()["detail"]) == (400, True)


def test_a_full_disk_is_insufficient_storage(launch: Launch, video: bytes) -> None:
    service = launch()
    # a file may not grow further: what the system says of it is what it says of a full disk
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    response = httpx.post(f"{service.url}/v1/videos", content=video, headers=MP4, timeout=60)
    assert (response.status_code, response.json()["code"]) == (507, "storage_full")
    assert "cannot be stored" in response.json()["detail"]
    assert not [line for line in service.log if line["level"] == "error"]


def test_a_video_larger_than_the_free_space_is_refused_before_its_upload(launch: Launch) -> None:
    assert answer_before_the_body(launch(max_video_bytes=2**62), 2**61) == b"HTTP/1.1 507"


@pytest.fixture
def without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['av'] = None\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    yield


def test_a_service_without_pyav_says_so_before_the_upload(without_pyav: None, launch: Launch) -> None:
    assert answer_before_the_body(launch(), 100_000) == b"HTTP/1.1 501"


async def test_a_service_without_room_for_a_stream_says_so_before_the_upload(
    launch: Launch, small: bytes
) -> None:
    service = launch(max_streams=1)
    async with websockets.connect(websocket_url(service)) as camera:
        await camera.send(config_text(ALL))
        await camera.send(small)
        await camera.recv()
        assert answer_before_the_body(service, 1000) == b"HTTP/1.1 429"
