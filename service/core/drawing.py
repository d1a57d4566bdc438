"""Draws skeletons into images."""

from collections.abc import Iterable

import cv2
import simplejpeg

from model.keypoints import COCO, Skeleton
from service.types import Image, Person

_SHOWN = 0.3  # keypoints below this score are not drawn
_ORANGE, _BLUE, _GREEN = (0, 140, 255), (255, 130, 30), (80, 220, 80)  # BGR
_SUBPIXEL_BITS = 3


def draw(image: Image, persons: Iterable[Person], skeleton: Skeleton = COCO) -> bytes:
    """Draw the persons' skeletons into an image uint8 BGR (H, W, 3) and return it as a JPEG."""
    for person in persons:
        draw_person(image, person, skeleton)
    return bytes(simplejpeg.encode_jpeg(image, quality=90, colorspace="BGR"))


def draw_person(image: Image, person: Person, skeleton: Skeleton = COCO) -> None:
    """Draw limbs and keypoints into an image uint8 BGR (H, W, 3); left is orange, right is blue."""
    x1, y1, x2, y2 = person.bbox
    width = max(1, round(max(x2 - x1, y2 - y1) / 100))
    points = [(round(x * 2**_SUBPIXEL_BITS), round(y * 2**_SUBPIXEL_BITS)) for x, y, _ in person.keypoints]
    shown = [score >= _SHOWN for *_, score in person.keypoints]
    for a, b in skeleton.edges:
        if shown[a] and shown[b]:
            cv2.line(image, points[a], points[b], _colour(skeleton, a, b), width, cv2.LINE_AA, _SUBPIXEL_BITS)
    for index, point in enumerate(points):
        if shown[index]:
            radius = (width + 1) << _SUBPIXEL_BITS
            cv2.circle(
                image, point, radius, _colour(skeleton, index), cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS
            )


def _colour(skeleton: Skeleton, *keypoints: int) -> tuple[int, int, int]:
    left, right = ({pair[side] for pair in skeleton.flip_pairs} for side in (0, 1))
    if left.issuperset(keypoints):
        return _ORANGE
    return _BLUE if right.issuperset(keypoints) else _GREEN
