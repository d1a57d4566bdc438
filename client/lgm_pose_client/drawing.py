"""Skeletons drawn over a picture."""

from PIL import ImageDraw
from PIL.Image import Image

from lgm_pose_client.types import Person, Skeleton, TrackedPerson

_SHOWN = 0.3  # keypoints below this score are not drawn
_ORANGE, _BLUE, _GREEN, _WHITE = (255, 140, 0), (30, 130, 255), (80, 220, 80), (255, 255, 255)  # RGB


def draw_person(image: Image, person: Person, skeleton: Skeleton) -> None:
    """Draw limbs, keypoints and track id into an RGB image; the person's left is orange, the right blue."""
    x1, y1, x2, y2 = person.bbox
    width = max(1, round(max(x2 - x1, y2 - y1) / 100))
    draw = ImageDraw.Draw(image)
    for a, b in skeleton.edges:
        (ax, ay, a_score), (bx, by, b_score) = person.keypoints[a], person.keypoints[b]
        if min(a_score, b_score) >= _SHOWN:
            draw.line((ax, ay, bx, by), _colour(skeleton, a, b), width)
    for index, (x, y, score) in enumerate(person.keypoints):
        if score >= _SHOWN:
            draw.circle((x, y), width + 1, _colour(skeleton, index))
    if isinstance(person, TrackedPerson):
        draw.text((x1, max(0, y1 - 12)), str(person.track_id), _WHITE)


def _colour(skeleton: Skeleton, *keypoints: int) -> tuple[int, int, int]:
    sides = {skeleton.names[keypoint].split("_")[0] for keypoint in keypoints}
    return _ORANGE if sides == {"left"} else _BLUE if sides == {"right"} else _GREEN
