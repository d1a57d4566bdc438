"""The data types from the bytes of an image to the answer.

Coordinates are pixels of the image after its EXIF orientation and `rotate`: x right, y down, integer =
pixel centre.
"""

from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import WithJsonSchema

Image = npt.NDArray[np.uint8]  # (H, W, 3) BGR
Floats = npt.NDArray[np.float32]
ROTATIONS = (0, 90, 180, 270)
MAX_PERSONS = 200  # limit of the persons of an image


def array_of(count: int, kind: str, description: str) -> WithJsonSchema:
    """JSON schema of `count` items of one type; few client generators understand a tuple's schema."""
    items = {"type": kind}
    schema = {"type": "array", "items": items, "minItems": count, "maxItems": count}
    return WithJsonSchema({**schema, "description": description})


BBox = Annotated[tuple[float, float, float, float], array_of(4, "number", "x1, y1, x2, y2 in pixels")]
Keypoint = Annotated[tuple[float, float, float], array_of(3, "number", "x, y in pixels, score in [0, 1]")]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a request: minimum score, and the number of best boxes to estimate.

    rotate: clockwise rotation in degrees, one of ROTATIONS, after the EXIF orientation; coordinates are
    those of the rotated image.
    """

    min_score: float = 0.15
    max_persons: int = 50
    rotate: int = 0


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one image sorted by descending score: (N, 4) x1, y1, x2, y2 in its pixels; scores (N,)."""

    boxes: Floats
    scores: Floats


@dataclass(frozen=True, slots=True)
class InferenceInput:
    """A decoded image and its options; the detector runs if `boxes` is None."""

    image: Image
    options: Options
    boxes: Boxes | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """A person: `bbox` x1, y1, x2, y2; `keypoints` x, y, score in the order of /v1/skeleton; in pixels."""

    bbox: BBox
    score: float
    keypoints: tuple[Keypoint, ...]


@dataclass(frozen=True, slots=True)
class TrackedPerson(Person):
    """A person with an id that stays the same from frame to frame of a camera."""

    track_id: int


#: What is known of the persons in an image before the networks run: nothing, their boxes, or everything.
Known: TypeAlias = "Boxes | tuple[Person, ...] | None"


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """Persons of one frame, sorted by descending score, and the number of crops of the frame.

    detect, pose: seconds in each network, including the frames of the same batch.
    """

    persons: tuple[Person, ...]
    crops: int
    detect: float
    pose: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of each stage from the arrival of an image to its answer; their sum is the total time.

    queue: waiting for a turn and for memory. other: the rest, such as the transfer to a child process,
    drawing, tracking, and waiting for earlier answers of a stream.
    """

    decode: float
    queue: float
    detect: float
    pose: float
    other: float

    def of(self, total: float) -> "Timings":
        """The same with `other` set so that the stages add up to `total` seconds."""
        rest = total - self.decode - self.queue - self.detect - self.pose
        return replace(self, other=round(max(rest, 0), 6))


@dataclass(frozen=True, slots=True)
class Poses:
    """The persons of one image, sorted by descending score, and its size in pixels."""

    width: int
    height: int
    persons: tuple[Person, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Model:
    """A network: its name, version, the commit of its training code, and what runs it in which precision.

    runtime: onnxruntime, openvino or torch. precision: float32, float16 or int8.
    """

    name: str
    version: str
    commit: str
    runtime: str
    precision: str


@dataclass(frozen=True, slots=True)
class Models:
    """The two loaded networks."""

    pose: Model
    detector: Model


@dataclass(frozen=True, slots=True)
class RawImage:
    """Raw pixels: `data` has height x width x 3 bytes, in the order BGR or RGB."""

    data: bytes | memoryview
    width: int
    height: int
    rgb: bool = False


Picture = bytes | RawImage  # bytes: an encoded image
