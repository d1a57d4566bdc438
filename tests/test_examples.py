"""The examples, run as a user runs them, against a real service."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
from pycocotools.coco import COCO

from examples import coco_export
from lgm_pose_client import Person, Poses, Timings
from tests.support.networks import BOX
from tests.support.service import ROOT, Launch, Pixels, Service

FPS = 10
Points = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
# where the tiny networks see a person's left hip (red), knee (green) and ankle (blue)
STANDING: Points = (160, 150), (160, 210), (160, 270)
SQUATTING: Points = (140, 205), (200, 205), (185, 270)
LYING: Points = (100, 200), (160, 205), (220, 200)


def run(example: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(ROOT / "examples" / example), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def film(path: Path, *scenes: tuple[Points, float]) -> str:
    """A video of a person in each posture for a number of seconds."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 320, "yuv420p", 4_000_000
        for picture in pictures(*scenes):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return str(path)


def pictures(*scenes: tuple[Points, float]) -> Iterator[Pixels]:
    for (hip, knee, ankle), seconds in scenes:
        picture = np.zeros((320, 320, 3), np.uint8)
        for point, colour in ((hip, (0, 0, 255)), (knee, (0, 255, 0)), (ankle, (255, 0, 0))):
            assert BOX[0] < point[0] < BOX[2] and BOX[1] < point[1] < BOX[3]
            cv2.circle(picture, point, 8, colour, cv2.FILLED)
        yield from [picture] * round(seconds * FPS)


def test_three_squats_are_counted(service: Service, tmp_path: Path) -> None:
    video = film(tmp_path / "squats.mp4", *[(STANDING, 1), (SQUATTING, 1)] * 3, (STANDING, 1.5))
    assert run("squats.py", video, service.grpc) == ["person 1: 1", "person 1: 2", "person 1: 3"]


def test_a_standing_person_has_no_squats(service: Service, tmp_path: Path) -> None:
    assert run("squats.py", film(tmp_path / "standing.mp4", (STANDING, 2)), service.grpc) == []


def test_a_fall_is_reported_once_and_a_short_bow_is_not(service: Service, tmp_path: Path) -> None:
    bow = film(tmp_path / "bow.mp4", (STANDING, 1), (LYING, 1), (STANDING, 2))
    assert run("fall_alert.py", bow, service.grpc) == []
    fall = film(tmp_path / "fall.mp4", (STANDING, 1), (LYING, 5))
    (line,) = run("fall_alert.py", fall, service.grpc)
    assert line.startswith("person 1 has been down for 2 s (frame ")
    assert int(line.removesuffix(")").rsplit(" ", 1)[1]) > FPS + 2 * FPS - 2


def test_photos_of_any_suffix_are_labelled_and_a_bad_one_is_named(
    service: Service, photo: bytes, tmp_path: Path
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "labels.json"
    folder.mkdir()
    for name in ("a.JPG", "b.jpeg", "c.Png"):
        (folder / name).write_bytes(photo)
    (folder / "bad.jpg").write_bytes(b"nonsense")
    command = [sys.executable, str(ROOT / "examples" / "coco_export.py"), str(folder), str(out), service.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"{folder / 'bad.jpg'}: " in done.stderr and "Traceback" not in done.stderr
    assert [each["file_name"] for each in COCO(out).imgs.values()] == ["a.JPG", "b.jpeg", "c.Png"]


def test_joints_outside_the_photo_are_not_labelled() -> None:
    keypoints = ((10.0, 20.0, 0.9), (-3.0, 20.0, 0.9), (10.0, 90.4, 0.4), *[(5.0, 5.0, 0.1)] * 14)
    person = Person((-5.0, 1.0, 60.0, 95.0), 0.8, keypoints)
    label = coco_export.annotation(person, Poses(50, 90, (person,), Timings(0, 0, 0, 0, 0)))
    assert label["keypoints"][:9] == [10, 20, 2, 0, 0, 0, 0, 0, 0]
    assert label["num_keypoints"] == 1
    assert label["bbox"] == [0, 1, 50, 89]


def test_labelled_photos_form_a_coco_data_set(launch: Launch, photo: bytes, tmp_path: Path) -> None:
    shipped = launch(weights=ROOT / "model" / "weights")
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.jpg").write_bytes(photo)
    out = tmp_path / "labels.json"
    (line,) = run("coco_export.py", str(folder), str(out), shipped.url)
    data = COCO(out)
    assert line.startswith(f"{len(data.anns)} persons of 2 photos")
    assert len(data.imgs) == 2 and data.imgs[1]["width"] == 512
    best = max(data.imgToAnns[1], key=lambda each: float(each["score"]))
    nose = best["keypoints"][:3]
    assert 200 < nose[0] < 250 and 80 < nose[1] < 140 and nose[2] == 2
    assert best["num_keypoints"] == sum(flag > 0 for flag in best["keypoints"][2::3])
    (category,) = json.loads(out.read_text())["categories"]
    assert len(category["keypoints"]) == 17 and max(map(max, category["skeleton"])) == 17
