"""Debian's chromium, headless, with a camera that shows a photo."""

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
    """Two seconds of video, 640 x 480: a camera that sways in front of the photo."""
    photo = cv2.resize(pixels, (720, 720), interpolation=cv2.INTER_CUBIC)
    for turn in np.linspace(0, 2 * np.pi, 60, endpoint=False):
        left = round(40 + 40 * np.sin(turn))
        yield np.ascontiguousarray(photo[:480, left : left + 640])


def camera_film(pixels: Pixels) -> bytes:
    """The same as MJPEG."""
    return b"".join(map(encode, camera_frames(pixels)))


def start_browser(playwright: Playwright, film: Path | None = None) -> Browser:
    """The browser; with a camera that shows a film (MJPEG) if one is given."""
    # the sandbox wants privileges that containers lack; the only pages opened are our own
    args = ["--no-sandbox", "--disable-dev-shm-usage"]
    if film is not None:
        args += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        args += [f"--use-file-for-fake-video-capture={film}"]
    return playwright.chromium.launch(executable_path=CHROMIUM, args=args)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """The browser driver."""
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
    """A visit to the page of a service; `faults` are the messages of the browser's console."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """The text of an element."""
        return self.page.locator(selector).text_content() or ""

    def wait_for_text(self, selector: str, pattern: str) -> None:
        """Wait until an element's text matches the pattern."""
        self.page.wait_for_function(
            "([selector, pattern]) => new RegExp(pattern).test(document.querySelector(selector).textContent)",
            arg=[selector, pattern],
        )

    def choose(self, *files: Path) -> None:
        """Choose a file with the button."""
        self.page.set_input_files("#file", files)

    def counts(self) -> dict[str, int]:
        """Frames of the stream by outcome, as the page shows them."""
        return {what: int(number) for number, what in re.findall(r"(\d+) (\w+)", self.text("#counts"))}

    def wait_for_frames(self, number: int) -> None:
        """Wait until that number of frames was answered."""
        self.page.wait_for_function(
            "number => parseInt(document.querySelector('#counts').textContent) >= number", arg=number
        )

    def forgive_network_faults(self) -> None:
        """Ignore the browser's messages about failed requests, which this test causes."""
        self.faults[:] = [fault for fault in self.faults if not _NETWORK_FAULT.match(fault)]


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, launch: Launch) -> Iterator[Open]:
    """Opens the page of a service; fails if the browser reports an error or leaves the service.

    It closes before the services that a test launched, because a page without a service reports errors.
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
    """The service with the shipped networks."""
    service = Service(weights=Settings.model_fields["weights"].default)
    yield service
    service.close()


@pytest.fixture(scope="session")
def pair(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of two persons, with a name that needs quoting in shells and forms."""
    path = tmp_path_factory.mktemp("photos") / """it's "us"; 1.jpg"""
    path.write_bytes(encode(np.hstack([pixels, pixels[:, ::-1]])))
    return path
