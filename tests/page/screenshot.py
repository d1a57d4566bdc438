"""Takes the screenshot of the page: the shipped service with a camera.

python -m tests.page.screenshot docs/page.png
"""

import sys
import tempfile
from pathlib import Path

import cv2
from playwright.sync_api import sync_playwright

from tests.page.conftest import camera_film, start_browser
from tests.support.service import ROOT, Service

SIZE = {"width": 1200, "height": 720}
FRAMES = 60  # a chart from end to end


def main(picture: Path) -> None:
    """Write the picture."""
    service = Service()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        film = Path(folder) / "camera.mjpeg"
        film.write_bytes(camera_film(cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))))
        browser = start_browser(playwright, film)
        page = browser.new_page(viewport=SIZE)
        page.goto(f"{service.url}/")
        page.click("#live")
        page.wait_for_function(
            "frames => parseInt(document.querySelector('#counts').textContent) >= frames",
            arg=FRAMES,
            timeout=300_000,
        )
        page.screenshot(path=picture)
        browser.close()
    service.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
