"""Persons as COCO keypoint results (https://cocodataset.org/#format-results)."""

from typing import Any, TypeAlias

from lgm_pose_client.types import Person, Poses

CocoResult: TypeAlias = dict[str, Any]


def coco_results(image_id: int, poses: Poses) -> list[CocoResult]:
    """The persons of an image: `keypoints` 17 times x, y, score; `bbox` x, y, width, height; in pixels."""
    return [_result(image_id, person) for person in poses.persons]


def _result(image_id: int, person: Person) -> CocoResult:
    x1, y1, x2, y2 = person.bbox
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [value for keypoint in person.keypoints for value in keypoint],
        "score": person.score,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
    }
