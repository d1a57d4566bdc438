"""Whether a frame of a camera shows the same as an earlier one."""

import cv2
import numpy as np

from service.types import Image, Person

_CELLS = 64  # along the longer side of a frame
# difference of a cell's mean colour, of 255. On 67 photos of 512 pixels it is at most 7 between two JPEGs
# with noise of a standard deviation of 4, and above 8 if any one of 248 persons moves by 2 pixels
_LIMIT = 8
_KEPT_S = 10.0  # then the networks run again, for example because they were replaced


def view_of(image: Image) -> Image:
    """The mean colours uint8 (h, w, 3) of the cells of an image uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    scale = min(1.0, _CELLS / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


class Scene:
    """The last frame of a camera in which the detector looked for persons, and those that it found.

    Several threads may use it: each pair of a view and its persons is valid, whichever frame it is of.
    """

    def __init__(self) -> None:
        self._last: tuple[Image, tuple[Person, ...], float] | None = None

    def persons(self, view: Image, time: float) -> tuple[Person, ...] | None:
        """The persons if a frame with this view (h, w, 3), arrived at `time` seconds, shows the same."""
        if self._last is None:
            return None
        last, persons, since = self._last
        same = (
            time - since <= _KEPT_S
            and last.shape == view.shape
            and cv2.norm(last, view, cv2.NORM_INF) <= _LIMIT
        )
        return persons if same else None

    def keep(self, view: Image, persons: tuple[Person, ...], time: float) -> None:
        """Keep the persons detected in a frame with this view (h, w, 3), arrived at `time` seconds."""
        self._last = view, persons, time
