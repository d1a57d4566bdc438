from typing import Any

import numpy as np
import pytest

from model.keypoints import COCO, FLIP_INDEX, MPII, Skeleton, distinct, keypoint_score, oks


def test_a_pose_scores_the_mean_of_the_keypoints_that_count() -> None:
    scores = np.zeros((3, 17), np.float32)
    scores[0] = 0.5
    scores[1, :4], scores[1, 4:] = 0.8, 0.19
    scores[2] = 0.1
    np.testing.assert_allclose(keypoint_score(scores), [0.5, 0.8, 0.0], atol=1e-6)
    assert float(keypoint_score(scores[1])) == pytest.approx(0.8)


@pytest.mark.parametrize("skeleton", [COCO, MPII], ids=["coco", "mpii"])
def test_mirror_images_are_of_the_other_side(skeleton: Skeleton) -> None:
    for index, mirror in enumerate(skeleton.flip_index):
        name = skeleton.names[index]
        swapped = name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert skeleton.names[mirror] == swapped
        assert skeleton.oks_sigmas[mirror] == skeleton.oks_sigmas[index]
    assert COCO.flip_index == FLIP_INDEX


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"names": ("a", "a")}, "unique"),
        ({"names": ()}, "missing"),
        ({"edges": ((0, 2),)}, "outside 0 to 1"),
        ({"flip_pairs": ((-1, 0),)}, "outside 0 to 1"),
        ({"oks_sigmas": (0.1,)}, "2 positive OKS sigmas"),
        ({"oks_sigmas": (0.1, 0.0)}, "2 positive OKS sigmas"),
    ],
)
def test_a_skeleton_whose_parts_do_not_fit_is_refused(change: dict[str, Any], complaint: str) -> None:
    parts: dict[str, Any] = {
        "names": ("a", "b"),
        "edges": ((0, 1),),
        "flip_pairs": ((0, 1),),
        "oks_sigmas": (0.1, 0.1),
    }
    Skeleton(**parts)
    with pytest.raises(ValueError, match=complaint):
        Skeleton(**{**parts, **change})


def test_oks_equals_the_coco_definition() -> None:
    """One person moved by known steps; all keypoints have score 0.9, the area is 4000."""
    a = np.random.default_rng(0).uniform(0, 100, (1, 17, 3)).astype(np.float32)
    a[0, :, 2] = 0.9
    b = a.copy()
    b[0, 0, 0] += 3  # the nose, sigma 0.026
    b[0, 11, 1] += 10  # a hip, sigma 0.107
    expected = (15 + np.exp(-9 / (8 * 0.026**2 * 4000)) + np.exp(-100 / (8 * 0.107**2 * 4000))) / 17
    np.testing.assert_allclose(oks(a, b, np.array([4000], np.float32)), [[expected]], rtol=1e-5)
    b[0, :, 2] = 0
    assert oks(a, b, np.array([4000], np.float32)) == 0


def test_poses_of_one_person_are_kept_once() -> None:
    """Poses in units of the size of the person: a step of 0.05 is the same person, one of 0.5 another one."""
    pose = np.random.default_rng(0).uniform(0, 1, (17, 3)).astype(np.float32)
    pose[:, 2] = 0.9
    steps = np.array([0, 0.5, 0.05, 0.45, 0.1], np.float32)
    poses = np.repeat(pose[None], len(steps), 0)
    poses[:, :, 0] += steps[:, None]
    for size in (1, 100):
        scaled = poses * np.array([size, size, 1], np.float32)
        areas = np.full(len(steps), size**2, np.float32)
        assert distinct(scaled, areas).tolist() == [0, 1, 4]
    assert distinct(poses[:0], np.zeros(0, np.float32)).tolist() == []
