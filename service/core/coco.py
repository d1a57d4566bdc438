"""Persons as COCO keypoint results (https://cocodataset.org/#format-results)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from service.types import Person, Poses, array_of


@dataclass(frozen=True, slots=True)
class CocoResult:
    """A COCO keypoint result: `keypoints` has x, y, score of each; `bbox` is x, y, width, height.

    x and y of a keypoint outside the picture are those of the nearest pixel in it.
    """

    image_id: int
    category_id: int
    keypoints: list[float]
    score: float
    bbox: Annotated[tuple[float, float, float, float], array_of(4, "number", "x, y, width, height in pixels")]


def coco_results(results: Sequence[Poses]) -> list[CocoResult]:
    """All persons as COCO keypoint results; image_id is the image's index in the request."""
    return [
        _coco_result(index, poses, person) for index, poses in enumerate(results) for person in poses.persons
    ]


def _coco_result(image_id: int, poses: Poses, person: Person) -> CocoResult:
    x1, y1, x2, y2 = person.bbox
    return CocoResult(
        image_id=image_id,
        category_id=1,
        keypoints=[
            value
            for x, y, score in person.keypoints
            for value in (_clipped(x, poses.width), _clipped(y, poses.height), score)
        ],
        score=person.score,
        bbox=(x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)),
    )


def _clipped(value: float, side: int) -> float:
    return min(max(value, 0.0), side - 1.0)
