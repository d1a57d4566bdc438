from typing import Any

import numpy as np
import pytest

from model.keypoints import COCO, FLIP_INDEX, MPII, Skeleton, person_score


def test_a_person_scores_the_root_of_the_box_times_the_mean_of_the_keypoints() -> None:
    keypoints = np.zeros((3, 17), np.float32)
    keypoints[0], keypoints[1, :16] = 0.5, 0.85
    np.testing.assert_allclose(person_score([0.49, 0.81, 1.0], keypoints), [0.35, 0.72, 0], atol=1e-6)


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
