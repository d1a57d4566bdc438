"""The camera and films on the page, in a real browser."""

import json
from pathlib import Path
from typing import Any

import av
from playwright.sync_api import Playwright, WebSocket

from tests.page.conftest import Open, Visit, camera_frames, start_browser
from tests.support.service import Launch, Pixels, Service

WANTED = 200


class Wire:
    """The messages over the WebSockets of a visit."""

    def __init__(self, visit: Visit) -> None:
        self.answers: list[list[dict[str, Any]]] = []  # over each connection
        self._page = visit.page
        self._page.on("websocket", self._listen)
        self._page.evaluate("""() => {  // the browser's own report leaves out messages made of a Blob
            const send = WebSocket.prototype.send;
            window.sent = 0;
            WebSocket.prototype.send = function (data) {
                window.sent += data instanceof Blob;
                send.call(this, data);
            };
        }""")

    def _listen(self, socket: WebSocket) -> None:
        answers: list[dict[str, Any]] = []
        self.answers.append(answers)
        socket.on("framereceived", lambda data: answers.append(json.loads(data)))

    def sent(self) -> int:
        """The number of frames that left the page."""
        frames: int = self._page.evaluate("window.sent")
        return frames


def test_every_frame_of_a_camera_is_accounted_for(visit: Open, service: Service) -> None:
    seen = visit(service)
    wire = Wire(seen)
    seen.page.click("#live")
    seen.wait_for_frames(WANTED)
    seen.wait_for_text("#persons b", "#1")
    assert "frames/s" in seen.text("#rate")
    seen.page.click("#live")
    seen.wait_for_text("#live", "Start camera")
    (answers,) = wire.answers
    counts = answers[-1]["counts"]
    assert wire.sent() == len(answers) == counts["received"] >= WANTED
    assert counts["received"] == counts["poses"] + counts["dropped"] + counts["errors"]
    expected = {
        "answered": counts["poses"],
        "dropped": counts["dropped"],
        "failed": counts["errors"],
        "lost": 0,
    }
    assert seen.counts() == expected
    assert answers[-1]["poses"]["persons"][0]["track_id"] == 1
    bars = seen.page.locator("#chart path.pose").get_attribute("d") or ""
    assert bars.count("M") == 60


def test_the_page_recovers_when_the_service_comes_back(visit: Open, launch: Launch) -> None:
    first = launch()
    seen = visit(first)
    wire = Wire(seen)
    seen.page.click("#live")
    seen.wait_for_frames(5)
    first.process.kill()
    seen.wait_for_text("#message", "cannot be reached.*: trying again in")
    assert seen.page.locator("#video").is_visible()
    before = seen.counts()
    first.close()
    second = launch(http_port=first.url.rpartition(":")[2])
    seen.wait_for_frames(before["answered"] + 5)
    assert seen.text("#message") == ""
    second.terminate()  # in peace: what it has taken is answered
    seen.wait_for_text("#message", "trying again in")
    second.wait()
    launch(http_port=first.url.rpartition(":")[2])
    seen.wait_for_frames(seen.counts()["answered"] + 5)
    seen.page.click("#live")
    seen.wait_for_text("#live", "Start camera")
    assert wire.sent() == sum(seen.counts().values())
    assert len(wire.answers) >= 3
    seen.forgive_network_faults()


def test_the_page_retries_when_the_service_is_full(visit: Open, launch: Launch) -> None:
    seen = visit(launch(max_streams=0))
    seen.page.click("#live")
    seen.wait_for_text("#message", "The service is busy: trying again in 1 s")
    seen.page.click("#live")
    seen.wait_for_text("#live", "Start camera")
    assert seen.text("#message") == ""


def test_a_lower_score_opens_another_stream(visit: Open, service: Service) -> None:
    seen = visit(service)
    wire = Wire(seen)
    seen.page.click("#live")
    seen.wait_for_frames(3)
    seen.page.locator("#min").fill("0.05")
    seen.wait_for_frames(len(wire.answers[0]) + 5)
    seen.page.click("#live")
    seen.wait_for_text("#live", "Start camera")
    counts = seen.counts()
    assert len(wire.answers) == 2
    assert wire.sent() == sum(map(len, wire.answers)) == counts["answered"] + counts["dropped"]


def test_a_photo_ends_the_camera(visit: Open, service: Service, pair: Path) -> None:
    seen = visit(service)
    seen.page.click("#live")
    seen.wait_for_frames(3)
    seen.choose(pair)
    seen.wait_for_text("#spoken", "1 person found in")
    seen.wait_for_text("#live", "Start camera")
    assert seen.text("#persons b") == "1"
    assert seen.page.locator("#video").is_hidden()
    seen.page.wait_for_function("() => !document.querySelector('#video').srcObject?.active")


def test_a_film_is_streamed_to_its_end(visit: Open, service: Service, pixels: Pixels, tmp_path: Path) -> None:
    path = tmp_path / "film.webm"
    with av.open(path, "w") as film:
        stream = film.add_stream("libvpx", rate=30, width=640, height=480, pix_fmt="yuv420p")
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
        for frame in camera_frames(pixels):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        film.mux(stream.encode())
    seen = visit(service)
    seen.choose(path)
    seen.wait_for_frames(1)
    seen.wait_for_text("#live", "Start camera")
    assert seen.text("#found") == "1 person"
    assert seen.counts()["lost"] == 0


def test_a_missing_camera_is_reported(visit: Open, playwright: Playwright, service: Service) -> None:
    seen = visit(service, start_browser(playwright))
    seen.page.click("#live")
    seen.wait_for_text("#message", "No camera was found")
    assert seen.text("#live") == "Start camera"
