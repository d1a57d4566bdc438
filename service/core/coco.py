"""Persons as COCO keypoint results (https://cocodataset.org/#format-results)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.types import Person, Poses, array_of


@dataclass(frozen=True, slots=True)
class CocoResult:
    """A COCO keypoint result: `keypoints` has 17 times x, y, score; `bbox` is x, y, width, height."""

    image_id: int
    category_id: int
    keypoints: Annotated[list[float], Field(min_length=51, max_length=51)]
    score: float
    bbox: Annotated[tuple[float, float, float, float], array_of(4, "number", "x, y, width, height in pixels")]


def coco_results(results: Sequence[Poses]) -> list[CocoResult]:
    """All persons as COCO keypoint results; image_id is the image's index in the request."""
    return [_coco_result(index, person) for index, poses in enumerate(results) for person in poses.persons]


def _coco_result(image_id: int, person: Person) -> CocoResult:
    x1, y1, x2, y2 = person.bbox
    return CocoResult(
        image_id=image_id,
        category_id=1,
        keypoints=[value for keypoint in person.keypoints for value in keypoint],
        score=person.score,
        bbox=(x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)),
    )
