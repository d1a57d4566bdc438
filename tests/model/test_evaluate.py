import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.evaluate import estimate, main, pckh_accuracy, person_accuracy, pose_accuracy, served
from model.geometry import Floats, Pixels
from model.metrics import PCKH_GROUPS, Scored, keypoint_accuracy
from model.samples import KEPT_APART, Sample, read_shards
from tests.model.labelled import (
    annotation,
    dotted,
    person,
    photo,
    random_joints,
    random_keypoints,
    sample,
    write_photos,
)
from tests.support.networks import BOX, save_networks

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture
def labelled() -> list[Sample]:
    """Six photos with two persons each and all keypoints labelled."""
    rng = np.random.default_rng(7)
    return [sample(number, [person(n, random_keypoints(rng)) for n in range(2)]) for number in range(6)]


class KnownLabels:
    """A pose network that returns the labels and records its input."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.labels = [p for s in samples for p in s.persons]
        self.asked: list[list[float]] = []

    def estimate(self, images: Sequence[Pixels], boxes: Sequence[Floats]) -> list[Floats]:
        (wanted,) = boxes
        self.asked += wanted.tolist()
        nearest = [min(self.labels, key=lambda p: float(np.abs(p.box - box).sum())) for box in wanted]
        found = np.stack([p.keypoints for p in nearest])
        found[..., 2] = 1
        return [found]


def test_given_boxes_are_those_of_persons_with_keypoints(labelled: list[Sample]) -> None:
    unlabelled = person(1, random_keypoints(np.random.default_rng(1)) * (1, 1, 0))
    crowd = person(2, random_keypoints(np.random.default_rng(2)), crowd=True)
    first = replace(labelled[0], persons=(*labelled[0].persons, unlabelled, crowd))
    samples = [first, *labelled[1:], sample(99, [unlabelled]), sample(98, [])]
    teller = KnownLabels(labelled)
    accuracy = pose_accuracy(teller, samples)
    assert (accuracy.ap, accuracy.persons, accuracy.images) == (1, 12, 6)
    assert teller.asked == [p.box.tolist() for s in labelled for p in s.persons]


def test_detected_boxes_carry_their_scores_into_the_poses(labelled: list[Sample]) -> None:
    samples = [*labelled, sample(99, [])]
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    found = [(np.stack([p.box for p in s.persons]), np.array([0.9, 0.3], np.float32)) for s in labelled]
    poses = estimate(KnownLabels(labelled), samples, [*found, none])
    assert keypoint_accuracy(samples, poses).ap == 1
    np.testing.assert_allclose(poses[0][1], [0.9, 0.3])
    assert poses[-1][0].shape == (0, 17, 3) and poses[-1][1].shape == (0,)
    surest = labelled[0].persons[0].box[None], np.array([1.0], np.float32)
    assert keypoint_accuracy(samples, estimate(KnownLabels(labelled), samples, [*found, surest])).ap < 1


def test_at_most_twenty_persons_a_photo_are_estimated(labelled: list[Sample]) -> None:
    boxes = np.arange(120, dtype=np.float32).reshape(30, 4)
    ((keypoints, scores),) = estimate(
        KnownLabels(labelled), labelled[:1], [(boxes, np.linspace(1, 0, 30, dtype=np.float32))]
    )
    assert len(keypoints) == len(scores) == 20 and scores[0] == 1


def test_person_boxes_are_measured_where_labels_are_complete(labelled: list[Sample]) -> None:
    class Fixed:
        seen = 0

        def detect(self, images: Sequence[Pixels]) -> list[Scored]:
            self.seen += 1
            return [(np.stack([p.box for p in labelled[0].persons]), np.ones(2, np.float32))]

    fixed = Fixed()
    samples = [labelled[0], replace(labelled[1], boxes_complete=False), sample(99, [])]
    accuracy = person_accuracy(fixed, samples)
    assert (accuracy.ap, accuracy.persons, accuracy.images, fixed.seen) == (1, 2, 1, 1)


def test_served_poses_and_estimated_boxes_are_distinguished() -> None:
    scores = np.array([0.9, 0.5, 0.31, 0.29, 0.1], np.float32)
    poses = np.arange(5 * 51, dtype=np.float32).reshape(5, 17, 3), scores * np.float32([0.5, 0.2, 0.7, 1, 1])
    (boxes,), (returned,) = served([(np.zeros((5, 4), np.float32), scores)], [poses], 2.0)
    assert (boxes, returned.tolist()) == (3, [0, 2])


def test_a_person_in_two_boxes_is_served_once() -> None:
    keypoints = np.random.default_rng(0).uniform(0, 90, (17, 3))
    poses = np.stack([keypoints, keypoints + 300, keypoints + 0.5]).astype(np.float32)
    poses[:, :, 2] = 0.9
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    boxes = np.array([[0, 0, 90, 90], [300, 300, 390, 390], [0, 30, 90, 120]], np.float32)
    _, (returned,) = served([(boxes, scores)], [(poses, scores * np.float32([0.8, 0.8, 0.95]))], 1.0)
    assert returned.tolist() == [0, 1]


def test_pckh_of_a_predictor() -> None:
    labels = [person(n, random_joints(n), head_size=20.0) for n in range(4)]
    samples = [sample(0, labels[:1]), sample(1, labels[1:])]
    off = replace(labels[2], keypoints=labels[2].keypoints + np.float32(50))
    labelled_samples = [sample(0, [labels[0], labels[1], off, labels[3]])]
    figures = pckh_accuracy(KnownLabels(labelled_samples), samples)
    assert figures == {**dict.fromkeys([*PCKH_GROUPS, "mean"], 0.75), "persons": 4, "images": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Networks and a shard: a person, the same person without keypoints, and only a bright spot."""
    save_networks(tmp_path)
    points = np.array([[120.3, 60.2], [200.4, 150.1], [160.0, 250.7]], np.float32)
    image = np.zeros((320, 320, 3), np.uint8)
    for channel, at in enumerate(points):
        image[..., channel] = 200.0 / 255 * dotted(at[None], (320, 320))[..., channel]
    keypoints = [float(v) for k in range(17) for v in (*points[k % 3], 2)]
    x1, y1, x2, y2 = BOX
    box = (x1, y1, x2 - x1, y2 - y1)
    spot = dotted(np.array([[100, 100]], np.float32), (320, 320))
    photos = [
        photo(1, image),
        photo(2, image, boxes_complete=False),
        photo(3, spot),
        photo(4, image, source="misc", boxes_complete=False),
        photo(5, image, split="train"),
    ]
    labels = [annotation(n, n, box, keypoints=keypoints) for n in (1, 2, 4, 5)]
    write_photos(tmp_path / "shard.tar", photos, labels)
    return tmp_path


def run(folder: Path, *options: str) -> None:
    main(
        [
            "--pose",
            f"{folder}/pose.onnx",
            "--detector",
            f"{folder}/detector.onnx",
            "--data",
            f"{folder}",
            *options,
        ]
    )


def test_the_command_prints_one_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--json", f"{folder}/figures.json")
    printed = capsys.readouterr().out
    assert "as served, all photos: 1.00 boxes looked at and 1.00 persons given a photo" in printed
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows]
    assert lines[0] == ["task", "network", "AP", "AP50", "AP75", "AR", "persons", "images"]
    table = {(line[0], line[1]): (float(line[2]), int(line[6]), int(line[7])) for line in lines[2:]}
    both = "keypoints, boxes detected"
    assert table == {
        ("keypoints, boxes given", "ours"): (1.0, 2, 2),
        ("person boxes", "ours"): (1.0, 1, 1),
        ("person boxes, all photos", "ours"): (0.5, 1, 2),  # the brighter spot is taken for a person
        (both, "ours + ours"): (1.0, 1, 1),
        (f"{both}, all photos", "ours + ours"): (0.5, 1, 2),
        ("keypoints, as served", "ours + ours"): (1.0, 1, 1),
        ("keypoints, as served, all photos", "ours + ours"): (0.5, 1, 2),
    }
    stored = json.loads((folder / "figures.json").read_text())
    assert (stored["split"], stored["source"], stored["flip"], stored["dark"]) == ("val", "coco", False, True)
    assert [row["ap"] for row in stored["rows"]] == pytest.approx([1, 1, 0.5, 1, 0.5, 1, 0.5], abs=5e-3)


def test_the_command_chooses_split_and_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--source", "misc", "--no-dark")
    tasks = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert tasks == ["| keypoints, boxes given"]  # the boxes of that photo are not complete
    with pytest.raises(ValueError, match="no photos of split 'test', source 'coco'"):
        run(folder, "--split", "test")
    with pytest.raises(FileNotFoundError):
        run(folder / "nowhere")


def test_photos_kept_apart_are_measured_on_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KEPT_APART, "val", [2])
    counts = {}
    for option in ((), ("--decide",)):
        run(folder, *option)
        printed = capsys.readouterr().out.splitlines()[2:]
        lines = [line.split(" | ") for line in printed if line.startswith("|")]
        counts[option] = {line[0]: int(line[-1].strip(" |")) for line in lines}
    assert counts[()]["| keypoints, boxes given"] == 1 and counts[()]["| person boxes, all photos"] == 2
    assert counts[("--decide",)] == {"| keypoints, boxes given": 1}  # its boxes are not complete


def val_photos(n: int) -> list[Sample]:
    samples = [
        s for s in read_shards([SHARED / "data" / "val.tar"]) if s.source == "coco" and s.boxes_complete
    ]
    return [s for s in samples if any(p.keypoints[:, 2].any() for p in s.persons)][:n]


@pytest.mark.skipif(not (SHARED / "teachers").is_dir(), reason="the published networks are not available")
def test_published_networks_get_the_input_they_expect() -> None:
    from model.baselines import MoveNetLightning, picodet, pp_tinypose, rtmdet

    cv2.setNumThreads(1)
    samples, folder = val_photos(8), SHARED / "teachers"
    plain = pose_accuracy(pp_tinypose(folder), samples).ap
    assert plain > 0.6
    assert pose_accuracy(pp_tinypose(folder, flip=True), samples).ap > plain - 0.03
    assert pose_accuracy(MoveNetLightning(folder), samples).ap > 0.25
    assert person_accuracy(picodet(folder), samples).ap > 0.3
    assert person_accuracy(rtmdet(folder), samples).ap > 0.3
