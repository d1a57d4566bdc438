"""Results never replace an input or each other."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lgm_pose_client.outputs import check_outputs, drawn_paths
from tests.client.test_client import run
from tests.client.test_sources import start, wait_for
from tests.support.service import ROOT, Launch, Service

PHOTO = (ROOT / "examples" / "astronaut.jpg").read_bytes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a/1.jpg, b/1.jpg, p.jpg, p.png and q.JPG."""
    for name in ("a/1.jpg", "b/1.jpg", "p.jpg", "p.png", "q.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PHOTO)
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["p.jpg"], ["p.jpg"]),
        (["p.png", "q.JPG"], ["p.jpg", "q.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["p.jpg", "p.png"], ["p.jpg.jpg", "p.png.jpg"]),
        (["a/1.jpg", "p.jpg", "p.png", "b/1.jpg"], ["a/1.jpg.jpg", "p.jpg.jpg", "p.png.jpg", "b/1.jpg.jpg"]),
        (["p.jpg", "p.jpg"], ["p.jpg", "p.jpg"]),
        (["a/1.jpg", "a/../a/1.jpg"], ["1.jpg", "1.jpg"]),
    ],
)
def test_photos_of_equal_names_are_drawn_to_different_paths(
    photos: Path, given: list[str], expected: list[str]
) -> None:
    out = photos / "out"
    assert drawn_paths([photos / name for name in given], out) == [out / name for name in expected]


@pytest.mark.parametrize(
    ("given", "folder"),
    [(["p.jpg"], "."), (["a/1.jpg", "b/1.jpg"], "."), (["p.png", "p.jpg"], "."), (["link.jpg"], "a")],
)
def test_a_photo_is_never_replaced(photos: Path, given: list[str], folder: str) -> None:
    (photos / "link.jpg").symlink_to(photos / "a" / "1.jpg")
    (photos / "p.png.jpg").write_bytes(PHOTO)
    before = digests(photos)
    inputs = [*(photos / name for name in given), photos / "p.png.jpg"]
    done = run(*inputs, "--draw", photos / folder, "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "would be overwritten" in done.stderr
    assert not done.stdout
    assert digests(photos) == before


def test_a_folder_is_answered_whole_and_drawn_elsewhere(service: Service, photos: Path) -> None:
    (photos / "notes.txt").write_text("not a picture")
    before = digests(photos)
    done = run(photos, photos / "a", "--draw", photos / "out", "--url", service.url)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(each["file"]).name for each in found] == ["p.jpg", "p.png", "q.JPG", "1.jpg"]
    after = digests(photos)
    assert {name: after.pop(name) for name in before} == before
    assert len(after) == 4
    empty = photos / "empty"
    empty.mkdir()
    done = run(empty, "--url", service.url)
    assert done.returncode == 1 and "holds no pictures" in done.stderr


@pytest.mark.parametrize("options", [["--out", "nodir/x.mp4"], ["--json", "nodir/x"], ["--out", "folder"]])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    name, place = options
    done = run("stream", "rtsp://127.0.0.1:9/camera", name, tmp_path / place, "--address", "127.0.0.1:9")
    assert done.returncode == 1
    assert place in done.stderr and "folder" in done.stderr
    assert "opened" not in done.stderr  # the camera was not tried


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_the_source_of_a_stream_is_never_replaced(service: Service, photos: Path, option: str) -> None:
    before = digests(photos)
    for source, place in ((photos / "p.jpg", photos / "p.jpg"), (photos / "a", photos / "a" / "1.jpg")):
        done = run("stream", source, option, place, "--address", service.grpc)
        assert done.returncode == 1
        assert "is an input" in done.stderr
    assert digests(photos) == before


def test_two_results_do_not_go_to_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two results"):
        check_outputs([], [tmp_path / "x", tmp_path / "." / "x"])


def test_rotated_photos_are_drawn_upright(service: Service, tmp_path: Path) -> None:
    upright = np.full((500, 400, 3), 20, np.uint8)
    upright[280:300, 170:190] = 255  # where the test network sees a person
    photo = tmp_path / "side.png"
    cv2.imwrite(str(photo), np.ascontiguousarray(np.rot90(upright)))
    done = run(photo, "--rotate", 90, "--draw", tmp_path / "out", "--url", service.url)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["width"], found["height"]) == (400, 500)
    drawn = cv2.imread(str(tmp_path / "out" / "side.jpg"))
    assert drawn is not None and drawn.shape == (500, 400, 3)
    x, y, _ = found["persons"][0]["keypoints"][0]
    spot = drawn[round(y), round(x)]
    assert int(spot.max()) - int(spot.min()) > 50  # the colour of a keypoint


def test_photos_wait_for_places_and_rates(launch: Launch, tmp_path: Path, small: bytes) -> None:
    """Twenty photos, four at once, against two places; and at two a second."""
    for number in range(20):
        (tmp_path / f"{number:02}.jpg").write_bytes(small)
    key = "correct-horse-battery"
    full, limited = launch(slow=True, max_images=2), launch(api_keys=key, rate_limit=2)
    for service, options in ((full, []), (limited, ["--api-key", key])):
        done = run(tmp_path, "--url", service.url, *options)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 20
    assert full.metric("pose_requests_total", api="rest", code="429") > 0
    assert limited.metric("pose_requests_total", api="rest", code="429") > 0


@pytest.mark.parametrize("form", ["json", "coco"])
def test_what_was_answered_is_written_when_the_service_goes_away(
    launch: Launch, tmp_path: Path, small: bytes, form: str
) -> None:
    service = launch(slow=True)
    for number in range(60):
        (tmp_path / f"{number:02}.jpg").write_bytes(small)
    process = start(tmp_path, "--url", service.url, "--format", form)
    wait_for(lambda: service.metric("pose_requests_total", api="rest", code="200") >= 6)
    service.process.kill()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert "cannot be reached" in last
    missing = int(last.rsplit("; ", 1)[1].split(" of 60 photos have no answer")[0])
    found = json.loads(stdout) if form == "coco" else stdout.splitlines()
    assert len(found) == 60 - missing >= 6
