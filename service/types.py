"""What travels from the bytes of an image to the answer.

Coordinates are pixels of the image after its EXIF orientation and `rotate`: x right, y down, integer =
pixel centre.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import WithJsonSchema

Image = npt.NDArray[np.uint8]  # (H, W, 3) BGR
Floats = npt.NDArray[np.float32]
ROTATIONS = (0, 90, 180, 270)
MAX_PERSONS = 200  # of an image, whatever a caller asks for


def array_of(count: int, kind: str, description: str) -> WithJsonSchema:
    """JSON schema of `count` items of one kind; few client generators understand that of a tuple."""
    items = {"type": kind}
    schema = {"type": "array", "items": items, "minItems": count, "maxItems": count}
    return WithJsonSchema({**schema, "description": description})


BBox = Annotated[tuple[float, float, float, float], array_of(4, "number", "x1, y1, x2, y2 in pixels")]
Keypoint = Annotated[tuple[float, float, float], array_of(3, "number", "x, y in pixels, score in [0, 1]")]


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller wants: persons of at least `min_score`, from the `max_persons` best boxes.

    rotate: degrees clockwise, one of ROTATIONS, by which the picture is turned once its EXIF orientation is
    applied; coordinates are those of the turned picture.
    """

    min_score: float = 0.2
    max_persons: int = 50
    rotate: int = 0


@dataclass(frozen=True, slots=True)
class Boxes:
    """Persons of one image by falling score: boxes (N, 4) x1, y1, x2, y2 in its pixels, scores (N,)."""

    boxes: Floats
    scores: Floats


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded image and what its caller wants of it; the detector runs where no `boxes` are given."""

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
    """A person with the id that it keeps from frame to frame of its camera."""

    track_id: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Persons of one frame, sorted by descending score, and the number of crops they were found in.

    detect, pose: the seconds that the frame spent in each network, with the frames that ran together with it.
    """

    persons: tuple[Person, ...]
    crops: int
    detect: float
    pose: float


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from the arrival of an image to its answer, stage by stage; their sum is the whole time.

    queue: waiting for a turn, and for memory. decode, detect, pose: the work. other: what is left, such as
    the way to a child process, a drawing, the order of a stream's answers and its tracking.
    """

    decode: float
    queue: float
    detect: float
    pose: float
    other: float

    def of(self, total: float) -> "Timings":
        """The same with `other` such that all add up to `total` seconds."""
        rest = total - self.decode - self.queue - self.detect - self.pose
        return replace(self, other=round(max(rest, 0), 6))


@dataclass(frozen=True, slots=True)
class Poses:
    """The persons of one image, by falling score, and its size in pixels."""

    width: int
    height: int
    persons: tuple[Person, ...]
    timings: Timings


@dataclass(frozen=True, slots=True)
class Model:
    """A network: its name, version, the commit of its training code, and the runtime that it runs on."""

    name: str
    version: str
    commit: str
    runtime: str


@dataclass(frozen=True, slots=True)
class Models:
    """The two networks that answer."""

    pose: Model
    detector: Model


@dataclass(frozen=True, slots=True)
class RawImage:
    """Pixels as a camera gives them: `data` holds height x width x 3 bytes, in the order BGR or RGB."""

    data: bytes | memoryview
    width: int
    height: int
    rgb: bool = False


Picture = bytes | RawImage  # bytes: an encoded image
