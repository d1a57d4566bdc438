"""Persons as COCO keypoint results (https://cocodataset.org/#format-results)."""

from typing import Any, TypeAlias

from lgm_pose_client.types import Person, Poses

CocoResult: TypeAlias = dict[str, Any]


def coco_results(image_id: int, poses: Poses) -> list[CocoResult]:
    """The persons of an image: `keypoints` x, y, score of each; `bbox` x, y, width, height; in pixels.

    x and y of a keypoint outside the picture are those of the nearest pixel in it.
    """
    return [_result(image_id, poses, person) for person in poses.persons]


def _result(image_id: int, poses: Poses, person: Person) -> CocoResult:
    x1, y1, x2, y2 = person.bbox
    return {
        "image_id": image_id,
        "category_id": 1,
        "keypoints": [
            value
            for x, y, score in person.keypoints
            for value in (_clipped(x, poses.width), _clipped(y, poses.height), score)
        ],
        "score": person.score,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
    }


def _clipped(value: float, side: int) -> float:
    return min(max(value, 0.0), side - 1.0)
