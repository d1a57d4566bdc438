"""The JSON of streams: configs and answers."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import orjson
from pydantic import Field

from service.api.http.schemas import OptionsQuery
from service.errors import PoseError
from service.streaming.frames import MAX_DETECT_EVERY, Counts, Dropped, Failed, Policy, StreamConfig
from service.types import Poses


class VideoQuery(OptionsQuery):
    """Parameters of POST /v1/videos."""

    tracking: Annotated[bool, Field(description="persons get ids that stay the same from frame to frame")] = (
        False
    )
    smoothing: Annotated[bool, Field(description="smooths keypoints; needs tracking")] = False
    detect_every: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_DETECT_EVERY,
            description="the detector runs at least on one frame in this number; above 1 it needs tracking",
        ),
    ] = 1
    skip_unchanged: Annotated[
        bool,
        Field(
            description="a frame that shows the same as an earlier one gets its persons without the networks"
        ),
    ] = False

    def config(self) -> StreamConfig:
        """The stream's config. Raises InvalidArgument."""
        return StreamConfig(
            self.options(),
            Policy.ALL,
            tracking=self.tracking,
            smoothing=self.smoothing,
            detect_every=self.detect_every,
            skip_unchanged=self.skip_unchanged,
        )


class StreamQuery(VideoQuery):
    """The config of a stream over WebSocket."""

    policy: Policy = Policy.LATEST
    camera_id: str = ""

    def config(self) -> StreamConfig:
        """See VideoQuery."""
        return replace(super().config(), policy=self.policy, camera_id=self.camera_id)


@dataclass(frozen=True, slots=True)
class FrameAnswer:
    """The answer to one frame: one of `poses`, `dropped` and `error`, and the `counts` so far.

    time: seconds of the frame since the first one of the video.
    """

    frame_id: int
    time: float
    counts: Counts
    poses: Poses | None = None
    dropped: Dropped | None = None
    error: Failed | None = None


def end_json(counts: Counts, lost: int) -> bytes:
    """The last line of a video as JSON. lost: number of frames that could not be decoded."""
    return orjson.dumps({"end": {"counts": counts, "lost": lost}})


def failure_json(error: PoseError) -> bytes:
    """The last line of a failed stream as JSON."""
    return orjson.dumps({"error": Failed(error.code, str(error))})


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "type": "object",
    "required": ["video"],
    "properties": {"video": {"type": "string", "format": "binary"}},
    "additionalProperties": False,
}
VIDEO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "MP4, MOV, MKV, WebM, AVI, MPEG, OGG or FLV, as the body or as `video` of a form.",
        "content": {
            "video/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {"schema": _FORM},
        },
    }
}
