import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.geometry import Floats
from model.keypoints import FLIP_INDEX, MPII, OKS_SIGMAS
from model.metrics import PCKH_GROUPS, Scored, box_accuracy, ground_truth, keypoint_accuracy, pckh
from model.samples import PersonAnnotation, Sample
from tests.model.labelled import person, random_joints, random_keypoints, sample, shift


def random_samples(rng: np.random.Generator) -> list[Sample]:
    """Photos with 0 to 14 persons of all sizes; some are unlabelled, partly labelled or crowds."""
    samples = []
    for number in range(24):
        persons = []
        for n in range(14 if number == 0 else int(rng.integers(0, 5))):
            keypoints = random_keypoints(rng, float(rng.choice([20, 60, 150])))
            keypoints[rng.random(17) < rng.choice([0.1, 0.5, 1.0], p=[0.6, 0.3, 0.1])] *= (1, 1, 0)
            label = person(n, keypoints, crowd=bool(rng.random() < 0.1))
            extent = label.box[2:] - label.box[:2]
            persons.append(replace(label, area=float(extent.prod() * 0.6)))
        samples.append(sample(number, persons))
    return samples


def noisy_predictions(
    rng: np.random.Generator, samples: Sequence[Sample]
) -> tuple[list[Scored], list[Scored]]:
    """Boxes and poses near the labels; some are missing, some are false."""
    boxes, poses = [], []
    for each in samples:
        found = [p for p in each.persons if rng.random() < 0.85]
        ghosts = [person(0, random_keypoints(rng)) for _ in range(int(rng.integers(0, 3)))]
        near_boxes = [p.box + rng.normal(0, 5, 4) for p in [*found, *ghosts]]
        near_points = [
            p.keypoints[:, :2] + rng.normal(0, rng.choice([1, 4, 9]), (17, 2)) for p in [*found, *ghosts]
        ]
        scores = rng.random(len(near_boxes)).round(2).astype(np.float32)
        points = np.array(near_points, np.float32).reshape(-1, 17, 2)
        poses.append((np.concatenate([points, np.ones((len(points), 17, 1), np.float32)], 2), scores))
        boxes.append((np.array(near_boxes, np.float32).reshape(-1, 4), scores))
    return boxes, poses


def reference(samples: Sequence[Sample], results: list[dict[str, Any]], kind: str) -> list[float]:
    """AP, AP50, AP75, APM, APL, AR of COCO's evaluation."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(samples)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    chosen = (0, 1, 2, 3, 4, 5) if kind == "keypoints" else (0, 1, 2, 4, 5, 8)
    return [float(evaluation.stats[index]) for index in chosen]


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_those_of_cocos_own_evaluation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = random_samples(rng)
    boxes, poses = noisy_predictions(rng, samples)
    box_results = [
        {"image_id": image, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, (found, scores) in enumerate(boxes, 1)
        for (x1, y1, x2, y2), score in zip(found.tolist(), scores.tolist(), strict=True)
    ]
    pose_results = [
        {"image_id": image, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}
        for image, (found, scores) in enumerate(poses, 1)
        for keypoints, score in zip(found, scores.tolist(), strict=True)
    ]
    for accuracy, results, kind in (
        (box_accuracy(samples, boxes), box_results, "bbox"),
        (keypoint_accuracy(samples, poses), pose_results, "keypoints"),
    ):
        ours = [accuracy.ap, accuracy.ap50, accuracy.ap75, accuracy.ap_medium, accuracy.ap_large, accuracy.ar]
        expected = reference(samples, results, kind)
        assert 0.05 < expected[0] < 0.95
        np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.fixture
def labelled() -> list[Sample]:
    """Six photos with two persons each and all keypoints labelled."""
    rng = np.random.default_rng(7)
    return [sample(number, [person(n, random_keypoints(rng)) for n in range(2)]) for number in range(6)]


def as_poses(samples: Sequence[Sample], change: Any = lambda keypoints: keypoints) -> list[Scored]:
    """The labels of the counted persons as predictions, after a change."""
    found = [[change(p.keypoints.copy()) for p in s.persons if p.keypoints[:, 2].any()] for s in samples]
    return [(np.array(k, np.float32).reshape(-1, 17, 3), np.ones(len(k), np.float32)) for k in found]


def test_true_keypoints_score_one_and_distorted_ones_do_not(labelled: list[Sample]) -> None:
    perfect = keypoint_accuracy(labelled, as_poses(labelled))
    assert (perfect.ap, perfect.ar, perfect.persons, perfect.images) == (1, 1, 12, 6)
    assert keypoint_accuracy(labelled, as_poses(labelled, lambda k: k[:, [1, 0, 2]])).ap < 0.1
    assert keypoint_accuracy(labelled, as_poses(labelled, lambda k: k[list(FLIP_INDEX)])).ap < 0.1
    assert (
        keypoint_accuracy(labelled, [(np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32))] * 6).ap == 0
    )


def test_only_labelled_keypoints_count(labelled: list[Sample]) -> None:
    def wreck(keypoints: Floats, visibility: int) -> Floats:
        keypoints[keypoints[:, 2] == visibility, :2] += 500
        return keypoints

    def hide(label: PersonAnnotation) -> PersonAnnotation:
        keypoints = label.keypoints.copy()
        keypoints[5:, 2] = 0
        return replace(label, keypoints=keypoints)

    partly = [replace(s, persons=tuple(map(hide, s.persons))) for s in labelled]
    assert keypoint_accuracy(partly, as_poses(partly, lambda k: wreck(k, 0))).ap == 1
    assert keypoint_accuracy(partly, as_poses(partly, lambda k: wreck(k, 1))).ap < 0.5  # hidden ones do count
    assert keypoint_accuracy(partly, as_poses(partly, lambda k: wreck(k, 2))).ap < 0.5


@pytest.mark.parametrize("pixels", [1.0, 4.0, 7.0, 10.0])
def test_similarity_is_cocos_formula(pixels: float) -> None:
    """Every keypoint off by d: mean of exp(-d^2 / (2 area (2 sigma)^2)), and AP the thresholds below it."""
    keypoints = random_keypoints(np.random.default_rng(0))
    one = [sample(0, [person(1, keypoints, area=5000.0)])]
    similarity = np.exp(-(pixels**2) / (2 * 5000 * (2 * np.array(OKS_SIGMAS)) ** 2)).mean()
    accuracy = keypoint_accuracy(one, as_poses(one, lambda k: shift(k, pixels * 0.6, pixels * 0.8)))
    expected = np.mean(np.linspace(0.5, 0.95, 10) <= similarity)
    assert accuracy.ap == pytest.approx(expected) and accuracy.ap == accuracy.ar
    assert accuracy.ap_medium == accuracy.ap and accuracy.ap_large == -1


def test_unlabelled_persons_and_crowds_are_ignored() -> None:
    rng = np.random.default_rng(3)
    known, unlabelled, crowd = (random_keypoints(rng) for _ in range(3))
    unlabelled[:, 2] = crowd[:, 2] = 0
    unlabelled[:, :2] += 300
    crowd[:, :2] += (0, 600)
    labels = [person(1, known), person(2, unlabelled), person(3, crowd, crowd=True)]
    samples = [sample(0, labels)]
    x, y = crowd[:, :2].mean(0)
    inside = np.array(
        [[x - d, y - d, x + d, y + d] for d in (5, 9)], np.float32
    )  # of the crowd, which itself is missed
    found = np.concatenate([[labels[0].box, labels[1].box], inside]).astype(np.float32)
    boxes = [(found, np.array([0.5, 0.9, 0.8, 0.7], np.float32))]
    poses = [(np.stack([p.keypoints for p in labels]), np.array([0.5, 0.9, 0.8], np.float32))]
    assert (keypoint_accuracy(samples, poses).ap, keypoint_accuracy(samples, poses).persons) == (1, 1)
    assert (box_accuracy(samples, boxes).ap, box_accuracy(samples, boxes).persons) == (1, 2)
    elsewhere = [(np.stack([known, shift(known, 5000, 0)]), np.array([0.5, 0.9], np.float32))]
    assert keypoint_accuracy(samples, elsewhere).ap == pytest.approx(0.5)


def test_pckh_counts_joints_within_half_a_head() -> None:
    label = person(1, random_joints(), head_size=20.0)
    near, far = shift(label.keypoints, 9.9, 0), shift(label.keypoints, 0, 10.1)
    assert set(pckh([label], near[None]).values()) == {1.0}
    assert set(pckh([label], far[None]).values()) == {0.0}
    assert set(pckh([replace(label, head_size=30.0)], far[None]).values()) == {1.0}
    assert pckh([label], far[None], threshold=0.51)["mean"] == 1.0


def test_pckh_groups_are_mpiis_random_joints() -> None:
    for name, indices in PCKH_GROUPS.items():
        assert {MPII.names[i].removeprefix("left_").removeprefix("right_") for i in indices} <= {
            name,
            f"{name}_top",
        }
        label = person(1, random_joints(), head_size=20.0)
        wrong = label.keypoints.copy()
        wrong[indices[0], 0] += 50
        rates = pckh([label], wrong[None])
        assert rates[name] == 1 - 1 / len(indices)
        assert {rate for other, rate in rates.items() if other not in (name, "mean")} == {1.0}
        assert rates["mean"] == pytest.approx(13 / 14)  # without pelvis and thorax


def test_pckh_ignores_unlabelled_joints() -> None:
    label = person(1, random_joints(), head_size=20.0)
    hidden = label.keypoints.copy()
    hidden[[0, 5, 14], 2] = 0
    partly = replace(label, keypoints=hidden)
    only_hidden_wrong, only_hidden_right = label.keypoints.copy(), shift(label.keypoints, 300, 0)
    only_hidden_wrong[[0, 5, 14], 0] += 300
    only_hidden_right[[0, 5, 14], 0] -= 300
    right, wrong = pckh([partly], only_hidden_wrong[None]), pckh([partly], only_hidden_right[None])
    assert np.isnan(right["ankle"]) and np.isnan(wrong["ankle"])
    assert (right["mean"], right["knee"]) == (1, 1) and (wrong["mean"], wrong["knee"]) == (0, 0)


def test_the_mean_of_pckh_leaves_out_pelvis_and_thorax() -> None:
    label = person(1, random_joints(), head_size=20.0)
    trunk, neck = label.keypoints.copy(), label.keypoints.copy()
    trunk[[MPII.names.index("pelvis"), MPII.names.index("thorax")], 0] += 300
    neck[MPII.names.index("upper_neck"), 0] += 300
    assert pckh([label], trunk[None])["mean"] == 1
    assert pckh([label], neck[None])["mean"] == pytest.approx(13 / 14)
