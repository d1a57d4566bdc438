"""Frames of a camera, how they are to be answered, and the answers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self, TypeAlias

from lgm_pose_client.pictures import EncodedImage
from lgm_pose_client.types import Options, Poses, RawImage

MAX_FRAME_ID = 2**64 - 1


class Policy(StrEnum):
    """What happens to frames that come faster than they are answered.

    LATEST: a newer frame replaces the one that waits, until the work on it starts. ALL: every frame
    is answered, and the sender is held back.
    """

    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How the frames of a stream are answered.

    camera_id: the stream's name in the service's log. tracking: persons get ids. smoothing: keypoints without
    jitter. detect_every: the detector runs at least on one frame in this number. smoothing and a detect_every
    above 1 need tracking. skip_unchanged: a frame that shows the same as an earlier one gets its persons
    without the networks. Raises ValueError.
    """

    options: Options = field(default_factory=Options)
    policy: Policy = Policy.LATEST
    camera_id: str = ""
    tracking: bool = False
    smoothing: bool = False
    detect_every: int = 1
    skip_unchanged: bool = False

    def __post_init__(self) -> None:
        if not self.tracking and (self.smoothing or self.detect_every > 1):
            raise ValueError("smoothing and detect_every need tracking")


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """A frame as sent, with an id of the sender's choice and the seconds at which it was taken, if known.

    picture: bytes of an encoded image, its file, an array (height, width, 3) uint8 in BGR, which is sent as a
    JPEG, or raw pixels. Raises ValueError for an id that is not in [0, 2**64).
    """

    frame_id: int
    picture: EncodedImage | RawImage
    timestamp: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.frame_id <= MAX_FRAME_ID:
            raise ValueError(f"frame_id {self.frame_id} is not in 0 to 2**64 - 1")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that was not worked on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A frame that could not be worked on; `code` is a short stable name, such as `invalid_image`."""

    code: str
    message: str


Outcome: TypeAlias = Poses | Dropped | Failed
_KEYS: dict[type[Outcome], str] = {Poses: "poses", Dropped: "dropped", Failed: "error"}


@dataclass(frozen=True, slots=True)
class Counts:
    """Answers of a stream so far: received = poses + dropped + errors."""

    received: int = 0
    poses: int = 0
    dropped: int = 0
    errors: int = 0

    def with_one(self, outcome: Outcome) -> Self:
        """The counts with one answer more."""
        counted = {Poses: "poses", Dropped: "dropped", Failed: "errors"}[type(outcome)]
        return replace(self, received=self.received + 1, **{counted: getattr(self, counted) + 1})


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one frame; `counts` includes it. time: the frame's timestamp in seconds, if known."""

    frame_id: int
    outcome: Outcome
    counts: Counts
    time: float | None = None

    def json(self) -> str:
        """The answer as a line of JSON, with one of `poses`, `dropped` and `error`."""
        outcome = {_KEYS[type(self.outcome)]: asdict(self.outcome)}
        time = {} if self.time is None else {"time": self.time}
        value = {"frame_id": self.frame_id, **time, **outcome, "counts": asdict(self.counts)}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """An answer of a decoded JSON object. Raises KeyError if a field is missing."""
        outcome: Outcome
        if "poses" in value:
            outcome = Poses.from_json(value["poses"])
        elif "dropped" in value:
            outcome = Dropped(value["dropped"]["reason"])
        else:
            outcome = Failed(value["error"]["code"], value["error"]["message"])
        counts = value["counts"]
        return cls(
            value["frame_id"],
            outcome,
            Counts(counts["received"], counts["poses"], counts["dropped"], counts["errors"]),
            value.get("time"),
        )
