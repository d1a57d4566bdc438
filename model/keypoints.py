"""Skeletons: names, edges, left-right pairs and OKS sigmas of a network's keypoints; the score of a pose; the
similarity of two poses.

Sources: https://cocodataset.org/#format-data and #keypoints-eval; http://human-pose.mpi-inf.mpg.de.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: Keypoints below this score are not counted: they say nothing about a pose.
MIN_KEYPOINT_SCORE = 0.2
#: Poses of this OKS or a higher one are those of the same person.
SAME_PERSON_OKS = 0.8

NAMES: tuple[str, ...] = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip

EDGES: tuple[tuple[int, int], ...] = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip

FLIP_PAIRS: tuple[tuple[int, int], ...] = tuple((left, left + 1) for left in range(1, 17, 2))

#: Index of each keypoint's mirror image: `keypoints[FLIP_INDEX]` after a horizontal flip.
FLIP_INDEX: tuple[int, ...] = (0, *(i for left, right in FLIP_PAIRS for i in (right, left)))

OKS_SIGMAS: tuple[float, ...] = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
    0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip


@dataclass(frozen=True)
class Skeleton:
    """What the K keypoints of a network are.

    names: of the keypoints, in the network's order. edges: limbs, as pairs of indices. flip_pairs: left and
    right keypoint, as pairs of indices. oks_sigmas: COCO's falloff of each keypoint.
    Raises ValueError if the parts do not fit each other.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    oks_sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        if not count or len(set(self.names)) != count:
            raise ValueError("keypoint names are missing or not unique")
        if any(not 0 <= index < count for pair in (*self.edges, *self.flip_pairs) for index in pair):
            raise ValueError(f"an edge or a flip pair names a keypoint outside 0 to {count - 1}")
        if len(self.oks_sigmas) != count or min(self.oks_sigmas) <= 0:
            raise ValueError(f"{count} keypoints need {count} positive OKS sigmas")

    @property
    def flip_index(self) -> tuple[int, ...]:
        """Index of each keypoint's mirror image."""
        mirror = {a: b for pair in self.flip_pairs for a, b in (pair, pair[::-1])}
        return tuple(mirror.get(index, index) for index in range(len(self.names)))


#: The 17 keypoints of COCO persons.
COCO = Skeleton(NAMES, EDGES, FLIP_PAIRS, OKS_SIGMAS)

#: The 16 joints of MPII. It defines no sigmas: each joint has that of COCO's nearest one; neck, thorax and
#: head that of the shoulders, the pelvis that of the hips.
MPII = Skeleton(
    names=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
    edges=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9),
        (10, 11), (11, 12), (12, 7), (7, 13), (13, 14), (14, 15),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (15, 10), (14, 11), (13, 12)),
    oks_sigmas=(
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079,
        0.062, 0.072, 0.079, 0.079, 0.072, 0.062,
    ),
)  # fmt: skip


def keypoint_score(scores: Floats) -> Floats:
    """Mean (...) of the keypoint scores (..., K) above MIN_KEYPOINT_SCORE; 0 where none is.

    COCO results are commonly rescored by it: the score of a pose is that of its box times this.
    """
    counted = scores > MIN_KEYPOINT_SCORE
    return np.asarray((scores * counted).sum(-1) / counted.sum(-1).clip(1), np.float32)


def oks(a: Floats, b: Floats, areas: Floats, skeleton: Skeleton = COCO) -> Floats:
    """Object keypoint similarity (N, M) of keypoints a (N, K, 3) with b (M, K, 3).

    areas: (N,) square pixels of the persons of a. Each keypoint is weighted by the product of its two scores.
    Source: https://cocodataset.org/#keypoints-eval.
    """
    variances = ((2 * np.array(skeleton.oks_sigmas)) ** 2).astype(np.float32)
    squares = ((a[:, None, :, :2] - b[None, :, :, :2]) ** 2).sum(-1)
    likeness = np.exp(-squares / (2 * np.maximum(areas, 1)[:, None, None] * variances))
    weights = oks_weights(a)[:, None] * oks_weights(b)[None]
    total = weights.sum(-1)
    return np.asarray((likeness * weights).sum(-1) / np.where(total > 0, total, 1), np.float32)


def distinct(keypoints: Floats, areas: Floats, skeleton: Skeleton = COCO) -> npt.NDArray[np.intp]:
    """Indices kept by non-maximum suppression of poses: none is of the same person as a better one.

    keypoints: (N, K, 3), sorted by descending score; areas: (N,) square pixels of the persons.
    Source: the keypoint-based NMS of Papandreou et al., CVPR 2017.
    """
    if len(keypoints) < 2:
        return np.arange(len(keypoints))
    alike = oks(keypoints, keypoints, areas, skeleton)
    kept: list[int] = []
    for index, of_index in enumerate(alike):
        if not kept or of_index[kept].max() < SAME_PERSON_OKS:
            kept.append(index)
    return np.array(kept, np.intp)


def oks_weights(keypoints: Floats) -> Floats:
    """The scores (..., K) of keypoints (..., K, 3), 0 below MIN_KEYPOINT_SCORE."""
    scores = keypoints[..., 2]
    return np.asarray(np.where(scores >= MIN_KEYPOINT_SCORE, scores, 0), np.float32)
