"""Frames of a camera, the config of a stream, and the answers."""

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

import orjson

from service.errors import InvalidArgument
from service.types import Options, Picture, Poses

MAX_DETECT_EVERY = 100
_CAMERA_ID = re.compile(r"[A-Za-z0-9._-]{0,64}")


class Policy(StrEnum):
    """What happens to frames that arrive faster than they are answered.

    LATEST: a newer frame replaces the waiting one, until a runner takes it. ALL: every frame is estimated,
    and flow control holds the sender back.
    """

    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The config of a stream.

    smoothing and a detect_every above 1 need tracking. skip_unchanged: a frame that shows the same as the
    last one in which the detector looked for persons gets its persons again. Raises InvalidArgument.
    """

    options: Options = field(default_factory=Options)
    policy: Policy = Policy.LATEST
    camera_id: str = ""
    tracking: bool = False
    smoothing: bool = False
    detect_every: int = 1
    skip_unchanged: bool = False

    def __post_init__(self) -> None:
        if not _CAMERA_ID.fullmatch(self.camera_id):
            raise InvalidArgument("camera_id must have at most 64 characters of A-Z a-z 0-9 . _ -")
        if not 1 <= self.detect_every <= MAX_DETECT_EVERY:
            raise InvalidArgument(f"detect_every {self.detect_every} is not in 1 to {MAX_DETECT_EVERY}")
        if not self.tracking and (self.smoothing or self.detect_every > 1):
            raise InvalidArgument("smoothing and detect_every need tracking")


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """A frame as sent: an id chosen by the sender, and its capture time in seconds, if known."""

    frame_id: int
    picture: Picture
    timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that was not estimated."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A frame that failed; `code` is a short stable name, such as `invalid_image`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Answers of a stream so far: received = poses + dropped + errors."""

    received: int = 0
    poses: int = 0
    dropped: int = 0
    errors: int = 0

    def with_one(self, outcome: "Outcome") -> "Counts":
        """The counts including one more answer."""
        kind = KINDS[type(outcome)]
        return replace(self, received=self.received + 1, **{kind: getattr(self, kind) + 1})


Outcome = Poses | Dropped | Failed
_NAMES: dict[type[Outcome], str] = {Poses: "poses", Dropped: "dropped", Failed: "error"}
KINDS: dict[type[Outcome], str] = {Poses: "poses", Dropped: "dropped", Failed: "errors"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one frame; `counts` includes it.

    time: the frame's timestamp in seconds, if it has one.
    """

    frame_id: int
    outcome: Outcome
    counts: Counts
    time: float | None = None

    def json(self) -> bytes:
        """The answer as JSON, with one of `poses`, `dropped` and `error`."""
        outcome = {_NAMES[type(self.outcome)]: self.outcome}
        time = {} if self.time is None else {"time": self.time}
        return orjson.dumps({"frame_id": self.frame_id, **time, **outcome, "counts": self.counts})
