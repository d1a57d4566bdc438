"""Reader of MPII Human Pose in the published layout (http://human-pose.mpi-inf.mpg.de/#download)."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from model.geometry import Floats
from model.keypoints import MPII
from model.samples import PersonAnnotation, Sample

#: One video in this number is held out: frames of one video are similar and must be in the same split.
HOLD_OUT = 10


def read_mpii(root: Path, split: str) -> list[Sample]:
    """Samples of split "train" or "val": photos with labelled persons, whose 16 joints are those of MPII in
    model.keypoints.

    root holds `mpii_human_pose_v1_u12_1.mat` and the photos in `images/`. Both splits are from the
    published training part, because the labels of the test part are not published: "val" has the photos
    whose video index is divisible by HOLD_OUT. Pixels count from 0; the file counts from 1.
    Raises ValueError for another split, FileNotFoundError if the file is missing.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r} of MPII has no labels; choose train or val")
    path = str(root / "mpii_human_pose_v1_u12_1.mat")  # of a Path, scipy hides that it is missing
    release = loadmat(path, simplify_cells=True)["RELEASE"]
    training = np.atleast_1d(release["img_train"])
    samples = (
        _sample(root, index, photo, split)
        for index, photo in enumerate(_structs(release["annolist"]))
        if training[index] and _is_held_out(photo) == (split == "val")
    )
    return [sample for sample in samples if sample.persons]


def _structs(value: Any) -> list[dict[str, Any]]:
    """MATLAB's struct array as a list: scipy returns a dict for one element, an empty array for none."""
    return [value] if isinstance(value, dict) else [element for element in value if isinstance(element, dict)]


def _is_held_out(photo: dict[str, Any]) -> bool:
    video = photo.get("vididx", ())
    return np.size(video) == 1 and int(video) % HOLD_OUT == 0


def _sample(root: Path, index: int, photo: dict[str, Any], split: str) -> Sample:
    labels = (_person(index * 100 + n, rect) for n, rect in enumerate(_structs(photo["annorect"]), 1))
    return Sample(
        id=index,
        source="mpii",
        split=split,
        boxes_complete=False,
        persons=tuple(label for label in labels if label is not None),
        read=(root / "images" / photo["image"]["name"]).read_bytes,
    )


def _person(person_id: int, rect: dict[str, Any]) -> PersonAnnotation | None:
    """The label of a person, None if joints or position are missing.

    The box is a square of 200 * scale pixels around the centre, moved down by 15 * scale to include the
    feet, the usual crop for this benchmark (Newell et al., ECCV 2016). Its area is used as that of the
    person, which MPII does not have.
    """
    keypoints = _keypoints(rect)
    position = rect.get("objpos")
    if not isinstance(position, dict) or not keypoints[:, 2].any():
        return None
    scale = float(rect["scale"])
    x, y = float(position["x"]) - 1, float(position["y"]) - 1 + 15 * scale
    half = 100 * scale
    return PersonAnnotation(
        id=person_id,
        box=np.array([x - half, y - half, x + half, y + half], np.float32),
        keypoints=keypoints,
        teacher=np.zeros_like(keypoints),
        area=(2 * half) ** 2,
        head_size=0.6 * float(np.hypot(rect["x2"] - rect["x1"], rect["y2"] - rect["y1"])),
    )


def _keypoints(rect: dict[str, Any]) -> Floats:
    """Joints float32 (16, 3): x, y in pixels, visibility 2 visible, 1 hidden, 0 unlabelled."""
    keypoints = np.zeros((len(MPII.names), 3), np.float32)
    points = rect.get("annopoints")
    for point in _structs(points["point"]) if isinstance(points, dict) else []:
        keypoints[int(point["id"])] = point["x"] - 1, point["y"] - 1, 2 if _is_visible(point) else 1
    return keypoints


def _is_visible(point: dict[str, Any]) -> bool:
    flag: Any = point.get("is_visible", 0)  # a number, a digit as text, empty, or no such field
    return np.size(flag) == 1 and float(flag or 0) > 0
