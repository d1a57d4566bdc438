"""What the service is asked and what it answers.

Coordinates are pixels of the image after its EXIF orientation and `rotate`: x to the right, y down, whole
numbers at pixel centres. Scores are in [0, 1]. Times are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

BBox: TypeAlias = "tuple[float, float, float, float]"  # x1, y1, x2, y2
Keypoint: TypeAlias = "tuple[float, float, float]"  # x, y, score
ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True, slots=True)
class Options:
    """Which persons are returned: those of at least `min_score`, of the `max_persons` best boxes.

    rotate: degrees clockwise, 0, 90, 180 or 270, by which the picture is turned after its EXIF orientation;
    coordinates are those of the turned picture.
    """

    min_score: float = 0.15
    max_persons: int = 50
    rotate: int = 0


@dataclass(frozen=True, slots=True)
class Person:
    """A person: `bbox` as x1, y1, x2, y2 and 17 `keypoints` as x, y, score in COCO's order, in pixels.

    Keypoints that the picture does not show can lie outside it.
    """

    bbox: BBox
    score: float
    keypoints: tuple[Keypoint, ...]


@dataclass(frozen=True, slots=True)
class TrackedPerson(Person):
    """A person with the id that it keeps from frame to frame of its stream."""

    track_id: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the arrival of an image to its answer, stage by stage; `other` is what is left."""

    decode: float
    queue: float
    detect: float
    pose: float
    other: float


@dataclass(frozen=True, slots=True)
class Poses:
    """The persons of one image, sorted by descending score, and its size in pixels."""

    width: int
    height: int
    persons: tuple[Person, ...]
    timings: Timings

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Poses of a decoded JSON object. Raises KeyError if a field is missing."""
        times = value["timings"]
        return cls(
            value["width"],
            value["height"],
            tuple(map(_person, value["persons"])),
            Timings(times["decode"], times["queue"], times["detect"], times["pose"], times.get("other", 0.0)),
        )


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Names of a person's keypoints in their order, and limbs as pairs of indices into them."""

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """A skeleton of a decoded JSON object. Raises KeyError if a field is missing."""
        return cls(tuple(value["names"]), tuple((a, b) for a, b in value["edges"]))


@dataclass(frozen=True, slots=True)
class RawImage:
    """Pixels as a camera gives them: `data` holds height x width x 3 bytes, in the order BGR or RGB."""

    data: bytes | memoryview
    width: int
    height: int
    rgb: bool = False


def _person(value: Mapping[str, Any]) -> Person:
    x1, y1, x2, y2 = value["bbox"]
    keypoints = tuple((x, y, score) for x, y, score in value["keypoints"])
    if value.get("track_id") is not None:
        return TrackedPerson((x1, y1, x2, y2), value["score"], keypoints, value["track_id"])
    return Person((x1, y1, x2, y2), value["score"], keypoints)
