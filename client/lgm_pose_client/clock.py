"""Times of frames: those of recordings, and those given by the user."""

import warnings

from lgm_pose_client.frames import StreamConfig, StreamFrame

_JUMP_S, _JUMP_FRAMES = 10, 10  # a step that is longer than both is a jump of the recording's clock
_MEMORY_S = 1.5  # seconds without a sighting after which a track ends
_ENOUGH = 5  # steps that are looked at


class RecordingClock:
    """Seconds since the first frame of a recording; a jump of its own clock counts as one frame."""

    def __init__(self, frame_s: float) -> None:
        """frame_s: usual seconds between frames."""
        self._frame_s = frame_s
        self._jump_s = max(_JUMP_S, _JUMP_FRAMES * frame_s)
        self._elapsed: float | None = None
        self._last: float | None = None

    def tick(self, time: float | None) -> float:
        """The seconds at the next frame, whose own timestamp is `time`."""
        step = self._frame_s
        if time is not None and self._last is not None and 0 <= time - self._last <= self._jump_s:
            step = time - self._last
        self._elapsed = 0.0 if self._elapsed is None else self._elapsed + step
        self._last = time
        return round(self._elapsed, 6)


class TimestampCheck:
    """Warns if the first frames of a tracked stream are so far apart that tracks end between them."""

    def __init__(self, config: StreamConfig) -> None:
        self._left = _ENOUGH if config.tracking else 0
        self._last: float | None = None

    def see(self, frame: StreamFrame) -> None:
        """Look at the next frame's timestamp."""
        if not self._left or frame.timestamp is None:
            return
        if self._last is not None:
            step = frame.timestamp - self._last
            self._left = self._left - 1 if step > _MEMORY_S else 0
            if not self._left and step > _MEMORY_S:
                warnings.warn(
                    f"timestamps are {step:g} s apart, and a track ends {_MEMORY_S} s after its last person: "
                    "give seconds, not milliseconds",
                    stacklevel=2,
                )
        self._last = frame.timestamp
