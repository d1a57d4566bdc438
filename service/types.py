"""What travels from the bytes of an image to the answer.

Coordinates are pixels of the image after EXIF orientation: x right, y down, integer = pixel centre.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]  # (H, W, 3) BGR
Floats = npt.NDArray[np.float32]
BBox = tuple[float, float, float, float]  # x1, y1, x2, y2
MAX_PERSONS = 200  # of an image, whatever a caller asks for
Keypoint = tuple[float, float, float]  # x, y, score in [0, 1]


@dataclass(frozen=True, slots=True)
class Options:
    """Which persons a caller wants: those of at least `min_score`, from the `max_persons` best boxes."""

    min_score: float = 0.2
    max_persons: int = 50


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded image and what its caller wants of it."""

    image: Image
    options: Options


@dataclass(frozen=True, slots=True)
class Person:
    """A person: `bbox` as x1, y1, x2, y2 and 17 `keypoints` as x, y, score in COCO's order, in pixels."""

    bbox: BBox
    score: float
    keypoints: tuple[Keypoint, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Persons of one frame by falling score, and the seconds its batch took."""

    persons: tuple[Person, ...]
    detect: float
    pose: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent on an image; `detect` and `pose` are those of the batch that it was part of."""

    decode: float
    queue: float
    detect: float
    pose: float


@dataclass(frozen=True, slots=True)
class Poses:
    """The persons of one image, by falling score, and its size in pixels."""

    width: int
    height: int
    persons: tuple[Person, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Model:
    """A network: its name, version and the commit of its training code."""

    name: str
    version: str
    commit: str


@dataclass(frozen=True, slots=True)
class Models:
    """The two networks that answer."""

    pose: Model
    detector: Model
