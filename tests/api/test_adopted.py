"""Adopted networks behind the API: a command for each file, then the service runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from benchmarks import served_accuracy
from model.samples import read_shards
from tests.model.adopt import published
from tests.model.labelled import annotation, dotted, photo, write_photos
from tests.support.networks import BOX
from tests.support.service import ROOT, Launch, Pixels, encode

TEACHERS, VAL = ROOT.parent / "shared" / "teachers", ROOT.parent / "shared" / "data" / "val.tar"


def adopt(file: Path, out: Path, *options: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "service", "adopt", str(file), "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(url: str) -> dict[str, str]:
    return {task: model["name"] for task, model in httpx.get(f"{url}/v1/models").json().items()}


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an adopted detector and an adopted network of SimCC, which runs one image at a time."""
    folder = tmp_path_factory.mktemp("adopted")
    printed = adopt(published.picodet(folder / "pico.onnx"), folder, "--licence", "Apache-2.0")
    assert printed.startswith(
        f"{folder}/detector.onnx: detector of the layout picodet (PicoDet, PaddleDetection)"
    )
    adopt(published.simcc(folder / "simcc.onnx"), folder, "--name", "classes")
    return folder


@pytest.mark.parametrize("worker", ["thread", "process"])
def test_a_folder_of_adopted_networks_is_served(
    launch: Launch, adopted: Path, pixels: Pixels, worker: str
) -> None:
    service = launch(weights=adopted, worker=worker)
    assert names(service.url) == {"pose": "classes", "detector": "pico"}
    (result,) = httpx.post(
        f"{service.url}/v1/poses?min_score=0", content=encode(pixels), headers={"content-type": "image/jpeg"}
    ).json()["results"]
    assert result["persons"]
    assert all(len(person["keypoints"]) == 17 for person in result["persons"])


def test_one_file_takes_the_place_of_ours_and_is_reloaded(
    launch: Launch, adopted: Path, networks: dict[bool, Path], tmp_path: Path
) -> None:
    detector = tmp_path / "mine.onnx"
    shutil.copy(adopted / "detector.onnx", detector)
    service = launch(weights=networks[False], detector=detector)
    assert names(service.url) == {"pose": "tiny-pose", "detector": "pico"}
    shutil.copy(adopted / "pico.onnx", detector)  # as published, not adopted
    service.process.send_signal(signal.SIGHUP)
    assert service.wait_for_log("networks rejected")["reason"] == f"{detector}: format None, not '1'"
    assert names(service.url)["detector"] == "pico"
    adopt(published.yolov8(tmp_path / "yolo.onnx"), tmp_path / "new")
    os.replace(tmp_path / "new" / "detector.onnx", detector)
    service.process.send_signal(signal.SIGHUP)
    service.wait_for_log("networks reloaded")
    assert names(service.url)["detector"] == "yolo"


def test_accuracy_is_measured_over_rest(networks: dict[bool, Path], tmp_path: Path) -> None:
    """A photo whose labels are what the tiny networks find in it."""
    points = np.array([[120, 60], [200, 150], [160, 250]], np.float32)
    image = np.zeros((320, 320, 3), np.uint8)
    for channel, point in enumerate(points):
        image[..., channel] = dotted(point[None], (320, 320))[..., channel]
    keypoints = [float(value) for k in range(17) for value in (*points[k % 3], 2)]
    x1, y1, x2, y2 = BOX
    label = annotation(1, 1, (x1, y1, x2 - x1, y2 - y1), keypoints=keypoints)
    write_photos(tmp_path / "val.tar", [photo(1, image)], [label])
    files = [str(networks[False] / f"{task}.onnx") for task in ("detector", "pose")]
    out = tmp_path / "figures.json"
    served_accuracy.main(["--pair", "tiny", *files, "--data", str(tmp_path), "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["networks"], row["persons"], row["photos"]) == ("tiny", 1, 1)
    assert row["ap_served"] == row["ap_evaluated"] == pytest.approx(1, abs=5e-3)


def write_val(folder: Path, photos: int) -> None:
    """The first labelled validation photos with complete boxes, as the benchmark reads them."""
    records, labels = [], []
    for sample in read_shards([VAL]):
        if sample.source != "coco" or not sample.boxes_complete or not 0 < len(sample.persons) < 4:
            continue
        records.append(photo(10**6 + sample.id, encode(sample.image(), ".png")))
        for person in sample.persons:
            x1, y1, x2, y2 = person.box.tolist()
            box = (x1, y1, x2 - x1, y2 - y1)
            about = {"keypoints": person.keypoints.ravel().tolist(), "area": person.area}
            labels.append(annotation(len(labels) + 1, 10**6 + sample.id, box, **about))
        if len(records) == photos:
            break
    write_photos(folder / "val.tar", records, labels)


@pytest.mark.skipif(not (TEACHERS.is_dir() and VAL.exists()), reason="no published networks here")
def test_accuracy_over_rest_is_that_of_the_evaluation(tmp_path: Path) -> None:
    cv2.setNumThreads(1)
    for name in ("rtmdet-nano-320-person", "pp-tinypose-256x192"):
        adopt(TEACHERS / f"{name}.onnx", tmp_path)
    write_val(tmp_path, 8)
    pair = ["--pair", "published", f"{tmp_path}/detector.onnx", f"{tmp_path}/pose.onnx"]
    served_accuracy.main([*pair, "--data", str(tmp_path), "--out", str(tmp_path / "figures.json")])
    (row,) = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert row["photos"] == 8
    assert row["ap_evaluated"] > 0.6
    assert abs(row["ap_served"] - row["ap_evaluated"]) < 0.02  # of few photos
