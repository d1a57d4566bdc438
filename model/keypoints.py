"""The 17 COCO person keypoints: names, skeleton, left-right pairs and OKS sigmas.

Source: https://cocodataset.org/#format-data and #keypoints-eval.
"""

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
