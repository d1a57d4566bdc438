"""REST from the client: connections that close, refusals for now, proxies, and services that are not one."""

import asyncio
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np
import pytest

from lgm_pose_client import AsyncHttpClient, Credentials, HttpClient, ServiceError, StreamConfig
from lgm_pose_client.pictures import encoded
from tests.api.test_video import film
from tests.support.service import ROOT, Launch, Pixels, Service

PHOTO = ROOT / "examples" / "astronaut.jpg"


class Closing:
    """Passes requests on to the service, and closes each connection as the next request on it arrives."""

    def __init__(self, service: Service) -> None:
        self._target = int(service.url.rsplit(":", 1)[1])
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.closed = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        service = socket.create_connection(("127.0.0.1", self._target))
        answered = threading.Event()

        def back() -> None:
            with suppress(OSError):  # either connection may be closed
                while data := service.recv(65_536):
                    client.sendall(data)
                    answered.set()

        threading.Thread(target=back, daemon=True).start()
        with client, service, suppress(OSError):
            while data := client.recv(65_536):
                if answered.is_set():  # the head of a second request
                    self.closed += 1
                    return
                service.sendall(data)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def closing(service: Service) -> Iterator[Closing]:
    closing = Closing(service)
    yield closing
    closing.close()


async def test_a_request_whose_idle_connection_closed_is_sent_again(
    closing: Closing, small: bytes, pixels: Pixels
) -> None:
    video = film(pixels)
    with HttpClient(closing.url) as http:
        assert {len((await asyncio.to_thread(http.estimate, small)).persons) for _ in range(3)} == {1}
        films = await asyncio.to_thread(lambda: list(http.estimate_video(io.BytesIO(video))))
    async with AsyncHttpClient(closing.url) as http2:
        assert {len((await http2.estimate(small)).persons) for _ in range(3)} == {1}
        films += [each async for each in http2.estimate_video(io.BytesIO(video))]
    assert len(films) == 24
    assert closing.closed >= 4


def test_a_service_that_always_closes_is_unreachable() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    accepted = []

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            accepted.append(client)
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    with (
        HttpClient(f"http://127.0.0.1:{server.getsockname()[1]}") as http,
        pytest.raises(ServiceError) as failed,
    ):
        http.estimate(b"")
    assert failed.value.code == "unreachable"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    assert len(accepted) == 2  # one more try, no more


async def test_a_full_service_is_waited_for_as_it_says(launch: Launch, photo: bytes) -> None:
    """One place, and a client with four requests: without patience three of them are refused."""
    service = launch(slow=True, max_images=1)
    async with AsyncHttpClient(service.url, patience_s=0) as hasty:
        failed = await asyncio.gather(*(hasty.estimate(photo) for _ in range(4)), return_exceptions=True)
    errors = [each for each in failed if isinstance(each, ServiceError)]
    assert errors
    assert {error.code for error in errors} == {"overloaded"}
    assert all(error.retry_after_s == 1 for error in errors)
    async with AsyncHttpClient(service.url) as patient:
        found = await asyncio.gather(*(patient.estimate(photo) for _ in range(4)))
    assert [len(poses.persons) for poses in found] == [1] * 4


def test_a_wait_that_is_too_long_is_refused_at_once(launch: Launch, small: bytes) -> None:
    service = launch(api_keys="correct-horse-battery", rate_limit=0.001)
    with (
        HttpClient(service.url, credentials=Credentials("correct-horse-battery")) as http,
        pytest.raises(ServiceError) as refused,
    ):
        for _ in range(3):
            http.estimate(small)
    assert refused.value.code == "rate_limited"
    assert (refused.value.retry_after_s or 0) > 900


def test_proxies_of_the_environment(service: Service, small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with HttpClient(service.url) as http:
        assert http.estimate(small).persons
    monkeypatch.setenv("NO_PROXY", "example.org")
    with pytest.raises(ServiceError, match=r"pip install 'httpx\[socks\]'") as failed:
        HttpClient(service.url)
    assert failed.value.code == "proxy"
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    with pytest.raises(ServiceError, match="gopher"):
        AsyncHttpClient(service.url)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"results": []}', b'{"results": [{}]}'])
def test_another_server_is_not_taken_for_a_pose_service(body: bytes) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = server.accept()
        with client:
            client.recv(65_536)
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            client.sendall(head.encode() + body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with (
        HttpClient(f"http://127.0.0.1:{server.getsockname()[1]}") as http,
        pytest.raises(ServiceError, match="not that of a pose service") as failed,
    ):
        http.estimate(b"")
    thread.join()
    server.close()
    assert failed.value.code == "invalid_answer"


def test_an_image_is_a_path_bytes_or_an_array(service: Service, pixels: Pixels) -> None:
    with HttpClient(service.url) as http:
        expected = http.estimate(PHOTO.read_bytes())
        for given in (PHOTO, str(PHOTO), pixels):
            found = http.estimate(given)
            assert (found.width, found.height) == (512, 512)
            np.testing.assert_allclose(found.persons[0].keypoints, expected.persons[0].keypoints, atol=2)
        assert http.draw(pixels)[:2] == b"\xff\xd8"
        with pytest.raises(FileNotFoundError):
            http.estimate("nowhere.jpg")


def test_an_array_is_read_as_bgr() -> None:
    blue = np.full((8, 16, 3), (250, 10, 10), np.uint8)  # in BGR
    decoded = cv2.imdecode(np.frombuffer(encoded(blue), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (8, 16, 3)
    np.testing.assert_allclose(decoded, blue, atol=3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_other_arrays_are_refused(service: Service, array: np.ndarray) -> None:  # type: ignore[type-arg]
    with HttpClient(service.url) as http, pytest.raises(ValueError, match="BGR"):
        http.estimate(array)


CASES = ROOT.parent / "shared" / "cases" / "files"


@pytest.mark.skipif(not CASES.exists(), reason="the damaged video is not here")
def test_lost_frames_of_a_video_are_warned_of(service: Service) -> None:
    with (
        HttpClient(service.url) as http,
        (CASES / "damaged-frame.mp4").open("rb") as video,
        pytest.warns(UserWarning, match="1 frames of the video are damaged"),
    ):
        assert len(list(http.estimate_video(video, StreamConfig(tracking=True)))) == 39
