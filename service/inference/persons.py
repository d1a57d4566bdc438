"""Converts boxes and keypoints to the persons of an answer."""

from collections.abc import Sequence

import numpy as np

from model.keypoints import Skeleton, keypoint_score
from model.topdown import Detector, select_persons
from service.types import Boxes, Floats, InferenceInput, Person


def find_boxes(detector: Detector, frames: Sequence[InferenceInput]) -> list[Boxes]:
    """Boxes (N, 4) and scores (N,) of each frame, limited by its options, in pixels of the frame.

    A frame that already has boxes keeps them.
    """
    unseen = [frame for frame in frames if frame.boxes is None]
    found = iter(detector.detect([frame.image for frame in unseen]) if unseen else [])
    margin = detector.metadata.box_margin
    return [_wanted(frame, margin, *next(found)) if frame.boxes is None else frame.boxes for frame in frames]


def _wanted(frame: InferenceInput, margin: float, boxes: Floats, scores: Floats) -> Boxes:
    """Limit boxes (N, 4) and scores (N,), sorted by descending score, to the frame's options.

    margin: how much higher than min_score a box must score to be worth the keypoints.
    """
    count = int(np.count_nonzero(scores >= margin * frame.options.min_score))
    count = min(count, frame.options.max_persons)
    return Boxes(boxes[:count], scores[:count])


def find_persons(
    frame: InferenceInput, detected: Boxes, keypoints: Floats, skeleton: Skeleton
) -> tuple[Person, ...]:
    """Persons of a frame, sorted by descending score, from its boxes and their keypoints (N, K, 3).

    The score of a person is the score of the box times the score of the keypoints. Of several boxes in which
    the keypoints are those of the same person, the one of the highest score is kept.
    """
    scores = (detected.scores * keypoint_score(keypoints[:, :, 2])).astype(np.float64).round(4)
    kept = select_persons(detected.boxes, keypoints, scores, frame.options.min_score, skeleton)
    return tuple(_person(detected.boxes[i], float(scores[i]), keypoints[i]) for i in kept)


def _person(box: Floats, score: float, keypoints: Floats) -> Person:
    """Rounds to 0.01 pixels and scores to 0.0001, because more digits only make answers longer.

    score: rounded already.
    """
    x1, y1, x2, y2 = (round(edge, 2) for edge in box.tolist())
    return Person(
        bbox=(x1, y1, x2, y2),
        score=score,
        keypoints=tuple((round(x, 2), round(y, 2), round(s, 4)) for x, y, s in keypoints.tolist()),
    )
