"""A photo on the page: drawing, texts and copies, in a real browser."""

import json
import struct
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from model.keypoints import FLIP_PAIRS, MPII
from tests.page.conftest import Open, Visit
from tests.support.networks import save_networks
from tests.support.service import Launch, Service, encode

ORANGE, BLUE, GREEN = (255, 140, 0), (30, 130, 255), (80, 220, 80)
_DOT = encode(np.zeros((16, 16, 3), np.uint8), ".png")
ICO = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 24, len(_DOT), 22) + _DOT
LEFT, RIGHT = ({pair[side] for pair in FLIP_PAIRS} for side in (0, 1))


def ask(service: Service, photo: Path, **query: Any) -> Any:
    url, headers = f"{service.url}/v1/poses", {"content-type": "image/jpeg"}
    answer = httpx.post(url, content=photo.read_bytes(), headers=headers, params=query, timeout=120)
    return answer.raise_for_status().json()


def drop(visit: Visit, path: Path) -> None:
    """Drop a file onto the page, as a user does."""
    visit.page.evaluate(
        """([name, data]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt());
            transfer.items.add(new File([bytes], name, {type: "image/jpeg"}));
            const about = {dataTransfer: transfer, bubbles: true, cancelable: true};
            document.querySelector("#stage").dispatchEvent(new DragEvent("drop", about));
        }""",
        [path.name, b64encode(path.read_bytes()).decode()],
    )


def shown_keypoints(
    persons: list[Any], left: set[int] = LEFT, right: set[int] = RIGHT
) -> dict[tuple[float, float], tuple[int, int, int]]:
    """Positions in pixels of the photo, with the expected colours."""
    return {
        (x, y): ORANGE if index in left else BLUE if index in right else GREEN
        for person in persons
        for index, (x, y, score) in enumerate(person["keypoints"])
        if score >= 0.3
    }


def colours(visit: Visit, places: Any, width: int) -> list[tuple[int, int, int]]:
    """Colours of the canvas at positions in pixels of a photo of that width."""
    found = visit.page.evaluate(
        """([places, width]) => {
            const canvas = document.querySelector("#canvas"), scale = canvas.width / width;
            const pixel = ([x, y]) => [(x + 0.5) * scale, (y + 0.5) * scale, 1, 1];
            const context = canvas.getContext("2d");
            return places.map((place) => [...context.getImageData(...pixel(place)).data.slice(0, 3)]);
        }""",
        [list(places), width],
    )
    return [tuple(colour) for colour in found]


def slide(visit: Visit, value: float) -> None:
    visit.page.locator("#min").fill(str(value))


def test_a_dropped_photo_shows_the_skeletons_of_the_rest_answer(
    visit: Open, shipped: Service, pair: Path
) -> None:
    seen = visit(shipped)
    drop(seen, pair)
    seen.page.wait_for_selector("#persons li")
    (answer,) = ask(shipped, pair)["results"]
    assert len(answer["persons"]) == 2
    assert seen.page.locator("#persons li").count() == 2
    assert seen.text("#found") == "2 persons"
    assert seen.text("#spoken") == f"2 persons found in {pair.name}."
    places = shown_keypoints(answer["persons"])
    assert len(places) > 10
    assert colours(seen, places, 1024) == list(places.values())


def test_the_page_draws_the_skeleton_of_the_network(visit: Open, launch: Launch, tmp_path: Path) -> None:
    service = launch(weights=save_networks(tmp_path, skeleton=MPII))
    image = np.zeros((320, 320, 3), np.uint8)
    for channel, (x, y) in enumerate([(110, 80), (210, 90), (160, 250)]):
        image[y - 8 : y + 9, x - 8 : x + 9, channel] = 255
    (tmp_path / "dots.jpg").write_bytes(encode(image))
    seen = visit(service)
    seen.choose(tmp_path / "dots.jpg")
    seen.page.wait_for_selector("#persons li")
    assert seen.text("#persons li").endswith("16 of 16 keypoints")
    left, right = ({pair[side] for pair in MPII.flip_pairs} for side in (0, 1))
    places = shown_keypoints(ask(service, tmp_path / "dots.jpg")["results"][0]["persons"], left, right)
    assert len(places) == 3
    assert colours(seen, places, 320) == list(places.values())


def test_the_slider_sends_a_request_only_for_lower_scores(visit: Open, shipped: Service, pair: Path) -> None:
    seen = visit(shipped)
    seen.choose(pair)
    seen.page.wait_for_selector("#persons li")
    slide(seen, 1)
    assert seen.text("#found") == "No persons"
    places = shown_keypoints(ask(shipped, pair)["results"][0]["persons"])
    assert not set(colours(seen, places, 1024)) & {ORANGE, BLUE, GREEN}
    slide(seen, 0.2)
    assert seen.text("#found") == "2 persons"
    asked = [url for url in seen.requests if "/v1/poses" in url]
    assert asked == [f"{shipped.url}/v1/poses?min_score=0.15"]
    with seen.page.expect_response("**/v1/poses?min_score=0.05"):
        slide(seen, 0.05)
    persons = ask(shipped, pair, min_score=0.05)["results"][0]["persons"]
    seen.wait_for_text("#found", f"^{len(persons)} ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "notes.txt", b"no pixels", "Notes.txt is not an image", id="text"
        ),  # the browser refuses it
        pytest.param("dot.ico", ICO, "Not an image of an accepted format", id="ico"),  # the service does
    ],
)
def test_a_file_that_is_not_an_image_is_reported(
    visit: Open, shipped: Service, photo: bytes, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / "good.jpg").write_bytes(photo)
    (tmp_path / name).write_bytes(content)
    seen = visit(shipped)
    seen.choose(tmp_path / "good.jpg")
    seen.page.wait_for_selector("#persons li")
    seen.choose(tmp_path / name)
    seen.wait_for_text("#message", message)
    assert seen.text("#found") == "No persons yet"
    assert seen.page.locator("#persons li").count() == 0
    assert seen.page.locator("[data-form=json]").is_disabled()
    seen.forgive_network_faults()


def copied(visit: Visit, form: str) -> str:
    visit.page.click(f"[data-form={form}]")
    visit.wait_for_text("#copied", "Copied")
    text: str = visit.page.evaluate("navigator.clipboard.readText()")
    visit.page.evaluate("document.querySelector('#copied').textContent = ''")
    return text


def test_copied_results_equal_the_answers_of_the_service(visit: Open, shipped: Service, pair: Path) -> None:
    seen = visit(shipped)
    seen.choose(pair)
    seen.page.wait_for_selector("#persons li")
    (answer,) = ask(shipped, pair)["results"]
    shown = json.loads(copied(seen, "json"))
    assert shown["timings"].keys() == answer["timings"].keys()
    assert {**shown, "timings": None} == {**answer, "timings": None}
    coco, expected = json.loads(copied(seen, "coco")), ask(shipped, pair, format="coco")
    assert len(coco) == len(expected) == 2
    for one, other in zip(coco, expected, strict=True):
        assert one.pop("bbox") == pytest.approx(other.pop("bbox"), abs=0.011)
        assert one == other


def test_copied_code_runs(visit: Open, shipped: Service, pair: Path) -> None:
    seen = visit(shipped)
    seen.choose(pair)
    seen.page.wait_for_selector("#persons li")
    persons = ask(shipped, pair)["results"][0]["persons"]

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=pair.parent, capture_output=True, check=True, text=True).stdout

    assert json.loads(run("sh", "-c", copied(seen, "curl")))["results"][0]["persons"] == persons
    printed = run(sys.executable, "-c", copied(seen, "python")).splitlines()
    assert printed == [f"{person['score']} {person['keypoints']}" for person in persons]


def test_a_photo_waits_for_an_unreachable_service(visit: Open, launch: Launch, pair: Path) -> None:
    first = launch()
    seen = visit(first)
    seen.wait_for_text("#found", "No persons yet")
    first.close()
    seen.choose(pair)
    seen.wait_for_text("#message", "cannot be reached.*: trying again in")
    launch(http_port=first.url.rpartition(":")[2])
    seen.page.wait_for_selector("#persons li")
    assert seen.text("#message") == ""
    seen.forgive_network_faults()
