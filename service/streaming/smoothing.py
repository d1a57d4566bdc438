"""Smooths keypoints with the One-Euro filter, for all persons of a camera at once.

Source: Casiez, Roussel, Vogel: 1 Euro Filter, CHI 2012, equations 1 to 6 and algorithm 1.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Row:
    """The state of one person: filtered points and speeds (K, 2), and their time."""

    points: Doubles
    speeds: Doubles
    time: float


class OneEuroFilter:
    """A low-pass filter whose cutoff increases with speed: it removes jitter and follows motion.

    min_cutoff: cutoff of a resting point in Hz. beta: increase of the cutoff in Hz per unit of speed.
    speed_cutoff: cutoff of the speed filter in Hz. The unit of speed is one body size per second.
    """

    def __init__(self, *, min_cutoff: float = 1.5, beta: float = 4.0, speed_cutoff: float = 1.0) -> None:
        self._min_cutoff, self._beta, self._speed_cutoff = min_cutoff, beta, speed_cutoff
        self._rows: dict[int, _Row] = {}

    def smooth(self, ids: Sequence[int], points: Doubles, sizes: Doubles, time: float) -> Doubles:
        """Filtered points (N, K, 2) of the persons `ids`; those of a new person are returned unchanged.

        sizes: (N,) body sizes in the unit of the points. time: seconds, must increase.
        """
        new = [_Row(each, np.zeros_like(each), time) for each in points]
        rows = [self._rows.get(ident, first) for ident, first in zip(ids, new, strict=True)]
        if not rows:
            return points
        before, speeds = np.stack([row.points for row in rows]), np.stack([row.speeds for row in rows])
        elapsed = time - np.array([row.time for row in rows])[:, None, None]
        safe = np.where(elapsed > 0, elapsed, 1.0)
        speeds = speeds + _share(self._speed_cutoff, safe) * ((points - before) / safe - speeds)
        cutoff = self._min_cutoff + self._beta * np.abs(speeds) / sizes[:, None, None]
        smoothed = before + _share(cutoff, safe) * (points - before)
        for ident, point, speed in zip(ids, smoothed, speeds, strict=True):
            self._rows[ident] = _Row(point, speed, time)
        return smoothed

    def keep(self, ids: Container[int]) -> None:
        """Forget all other persons."""
        self._rows = {ident: row for ident, row in self._rows.items() if ident in ids}


def _share(cutoff: Doubles | float, elapsed: Doubles) -> Doubles:
    """Weight of the new value in an exponential filter of `cutoff` Hz after `elapsed` seconds."""
    turn = 2 * np.pi * cutoff * elapsed
    return turn / (turn + 1)
