"""The unit of the timestamps that a sender gives its frames: seconds."""

from time import monotonic

from service.errors import InvalidArgument

_EPOCH_LIMIT = 1e11  # seconds; those of the year 5138
_STEPS = 10  # in a row
_STEP_S = 5.0  # longer than a track lasts without a sighting
_SPEED = 100.0  # times as fast as the frames come


class TimestampCheck:
    """Refuses timestamps in milliseconds, with which tracking would lose every person at each frame.

    They are larger than seconds since 1970 can be; or they advance by many seconds from frame to frame, and a
    hundred times as fast as the frames come.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None  # timestamp, and when it came
        self._wrong = 0

    def check(self, timestamp: float | None) -> None:
        """Take the timestamp of the next frame, now. Raises InvalidArgument."""
        if timestamp is None:
            return
        if abs(timestamp) >= _EPOCH_LIMIT:
            raise InvalidArgument(f"the timestamp {timestamp:.0f} is not in seconds")
        now = monotonic()
        if self._last is not None:
            step, waited = timestamp - self._last[0], now - self._last[1]
            self._wrong = self._wrong + 1 if step >= _STEP_S and step >= _SPEED * waited else 0
            if self._wrong >= _STEPS:
                raise InvalidArgument(
                    f"timestamps advance by {step:g} s in {waited:.2g} s: send seconds, not milliseconds"
                )
        self._last = timestamp, now
