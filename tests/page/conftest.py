"""Debian's chromium without a screen, with a camera fed from a photo."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from service.config import Settings
from tests.support.service import Launch, Pixels, Service, encode

CHROMIUM = shutil.which("chromium")
_NETWORK_FAULT = re.compile("Failed to load resource|WebSocket connection to")


def camera_frames(pixels: Pixels) -> Iterator[Pixels]:
    """Two seconds of video, 640 x 480: a camera that sways before the photo."""
    photo = cv2.resize(pixels, (720, 720), interpolation=cv2.INTER_CUBIC)
    for turn in np.linspace(0, 2 * np.pi, 60, endpoint=False):
        left = round(40 + 40 * np.sin(turn))
        yield np.ascontiguousarray(photo[:480, left : left + 640])


def camera_film(pixels: Pixels) -> bytes:
    """The same as MJPEG."""
    return b"".join(map(encode, camera_frames(pixels)))


def start_browser(playwright: Playwright, film: Path | None = None) -> Browser:
    """The browser, with a camera that shows a film (MJPEG) where one is given, and else without one."""
    # the sandbox wants privileges that containers lack; the only pages opened are our own
    args = ["--no-sandbox", "--disable-dev-shm-usage"]
    if film is not None:
        args += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        args += [f"--use-file-for-fake-video-capture={film}"]
    return playwright.chromium.launch(executable_path=CHROMIUM, args=args)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """What drives browsers."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(
    playwright: Playwright, pixels: Pixels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser with a camera."""
    film = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    film.write_bytes(camera_film(pixels))
    browser = start_browser(playwright, film)
    yield browser
    browser.close()


@dataclass
class Visit:
    """A visit to the page of a service; `faults` are what the browser's console complained of."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """What an element says."""
        return self.page.locator(selector).text_content() or ""

    def wait_for_text(self, selector: str, pattern: str) -> None:
        """Until an element's text has the pattern."""
        self.page.wait_for_function(
            "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector).textContent)",
            arg=[selector, pattern],
        )

    def choose(self, *files: Path) -> None:
        """Choose a file by the button."""
        self.page.set_input_files("#file", files)

    def counts(self) -> dict[str, int]:
        """Frames of the stream by what became of them, as the page tells."""
        return {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", self.text("#counts"))}

    def wait_for_frames(self, number: int) -> None:
        """Until so many frames of the stream were answered."""
        self.page.wait_for_function(
            "number => parseInt(document.querySelector('#counts').textContent) >= number", arg=number
        )

    def forgive_network_faults(self) -> None:
        """The browser complains of each request that failed, which is what this test is about."""
        self.faults[:] = [fault for fault in self.faults if not _NETWORK_FAULT.match(fault)]


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, launch: Launch) -> Iterator[Open]:
    """Opens the page of a service; fails where the browser complains or goes elsewhere.

    It ends before the services that a test launched: a page whose service goes away complains.
    """
    visits = []

    def open_page(service: Service, browser: Browser = browser, **context: object) -> Visit:
        permissions = ["clipboard-read", "clipboard-write", "camera"]
        page = browser.new_context(permissions=permissions, **context).new_page()
        page.set_default_timeout(120_000)
        visit = Visit(page)
        page.on("console", lambda line: visit.faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: visit.faults.append(str(error)))
        page.on("request", lambda request: visit.requests.append(request.url))
        page.goto(f"{service.url}/")
        visits.append((service, visit))
        return visit

    yield open_page
    for service, visit in visits:
        visit.page.context.close()
        assert visit.faults == []
        assert [url for url in visit.requests if not url.startswith((service.url, "blob:"))] == []


@pytest.fixture(scope="module")
def shipped() -> Iterator[Service]:
    """The service with the networks that the repository ships."""
    service = Service(weights=Settings.model_fields["weights"].default)
    yield service
    service.close()


@pytest.fixture(scope="session")
def pair(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of two persons, under a name that shells and forms stumble over."""
    path = tmp_path_factory.mktemp("photos") / """it's "us"; 1.jpg"""
    path.write_bytes(encode(np.hstack([pixels, pixels[:, ::-1]])))
    return path
