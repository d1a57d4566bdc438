"""The keypoints of the persons in their boxes."""

import json
from collections.abc import Sequence

import numpy as np

from model.geometry import box_to_affine, crop, decode_heatmaps, invert, transform
from model.keypoints import NAMES
from service.errors import ArtefactError
from service.inference.runtime import Session, input_size
from service.types import Boxes, Floats, Frame, Person

CROPS_PER_RUN = 32
_SURE = 0.2  # keypoints below this score do not count in a person's score


class PoseEstimator:
    """Persons from the pose network."""

    def __init__(self, session: Session) -> None:
        if tuple(json.loads(session.metadata["keypoint_names"])) != NAMES:
            raise ArtefactError("the pose network's keypoints are not the 17 of COCO")
        self._session = session
        self._size = input_size(session)
        self._stride = int(session.metadata["heatmap_stride"])
        self._padding = float(session.metadata["crop_padding"])

    def estimate(self, frames: Sequence[Frame], detected: Sequence[Boxes]) -> list[tuple[Person, ...]]:
        """Persons of each frame, by falling score; the crops of all frames run together."""
        affines = [[box_to_affine(box, self._size, self._padding) for box in d.boxes] for d in detected]
        crops = [
            crop(frame.image, affine, self._size)
            for frame, of_frame in zip(frames, affines, strict=True)
            for affine in of_frame
        ]
        keypoints = iter(self._keypoints(crops))
        return [
            _persons(frame, boxes, [(next(keypoints), affine) for affine in of_frame])
            for frame, boxes, of_frame in zip(frames, detected, affines, strict=True)
        ]

    def _keypoints(self, crops: Sequence[np.typing.NDArray[np.uint8]]) -> list[Floats]:
        """Keypoints (17, 3) x, y, score of each crop, in its pixels."""
        found: list[Floats] = []
        for start in range(0, len(crops), CROPS_PER_RUN):
            (heatmaps,) = self._session.run(np.stack(crops[start : start + CROPS_PER_RUN]))
            found.extend(decode_heatmaps(heatmaps, self._stride))
        return found


def _persons(frame: Frame, detected: Boxes, found: list[tuple[Floats, Floats]]) -> tuple[Person, ...]:
    """Persons of one frame from its boxes and, for each, keypoints in the crop and the crop's affine."""
    persons = [
        _person(box, float(score), keypoints, affine)
        for box, score, (keypoints, affine) in zip(detected.boxes, detected.scores, found, strict=True)
    ]
    wanted = [person for person in persons if person.score >= frame.options.min_score]
    return tuple(sorted(wanted, key=lambda person: -person.score))


def _person(box: Floats, box_score: float, keypoints: Floats, affine: Floats) -> Person:
    """Rounded to 0.01 pixel and 0.0001: finer digits only make answers longer."""
    xy = transform(keypoints[:, :2], invert(affine)).round(2).tolist()
    scores = keypoints[:, 2]
    x1, y1, x2, y2 = box.round(2).tolist()
    return Person(
        bbox=(round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)),
        score=round(box_score * keypoint_score(scores), 4),
        keypoints=tuple(
            (round(x, 2), round(y, 2), round(s, 4)) for (x, y), s in zip(xy, scores.tolist(), strict=True)
        ),
    )


def keypoint_score(scores: Floats) -> float:
    """Mean of the keypoint scores above 0.2, as COCO results are usually rescored; 0 without any."""
    sure = scores[scores > _SURE]
    return float(sure.mean()) if len(sure) else 0.0
