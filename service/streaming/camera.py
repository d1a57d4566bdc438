"""The state of one camera: its tracks, its smoothed keypoints, and when to run the detector again."""

from collections.abc import Sequence

import numpy as np

from model.geometry import box_areas
from model.keypoints import COCO, Skeleton
from service.streaming.smoothing import Doubles, OneEuroFilter
from service.streaming.tracking import BRIDGED_S, Track, Tracker
from service.types import Boxes, Person, TrackedPerson

_FRAME_S = 0.04  # between frames whose timestamps do not grow


class Camera:
    """Turns the persons of each frame of a camera into tracked ones.

    detect_every: the detector runs at least on one frame in `detect_every`. On the other frames the boxes
    come from the keypoints of the last frame, unless a track is lost or uncertain, or that frame is older
    than a track lasts without a person.
    """

    def __init__(self, *, smoothing: bool, detect_every: int, skeleton: Skeleton = COCO) -> None:
        self._skeleton = skeleton
        self._tracker = Tracker(skeleton)
        self._filter = OneEuroFilter() if smoothing else None
        self._detect_every = detect_every
        self._followed = 0  # frames since the detector ran
        self._given, self._time = 0.0, 0.0  # timestamp of the last frame, and its seconds since the first
        self._seen: list[Track] = []  # in the last frame
        self._uncertain = False

    def boxes(self, time: float) -> Boxes | None:
        """The boxes (N, 4) and scores (N,) for the frame captured at `time` seconds, in pixels of the frame.

        None means that the detector must run.
        """
        if self._uncertain or not self._seen or self._followed + 1 >= self._detect_every:
            return None
        now = self._since_first(time)
        if now - self._time > BRIDGED_S:
            return None
        boxes = [track.moved_to(now).box for track in self._seen]
        scores = [track.box_score for track in self._seen]
        return Boxes(np.stack(boxes), np.array(scores, np.float32))

    def update(self, persons: Sequence[Person], time: float, *, detected: bool) -> tuple[Person, ...]:
        """The persons of the frame captured at `time` with their tracks, in the same order.

        detected: whether their boxes come from the detector, not from `boxes`.
        """
        self._given, self._time = time, self._since_first(time)
        found = self._tracker.update(persons, self._time, detected=detected)
        pairs = [(person, track) for person, track in zip(persons, found, strict=True) if track is not None]
        lost = not detected and len(pairs) < len(self._seen)
        self._seen = [track for _, track in pairs]
        self._followed = 0 if detected else self._followed + 1
        self._uncertain = lost or any(track.uncertain for track in self._seen)
        return self._answer(pairs)

    def _since_first(self, time: float) -> float:
        """Seconds since the first frame; they increase even if the camera's clock is set back."""
        elapsed = time - self._given
        return self._time + (elapsed if elapsed > 0 else _FRAME_S)

    def _answer(self, pairs: Sequence[tuple[Person, Track]]) -> tuple[Person, ...]:
        count = len(self._skeleton.names)
        points = np.array([track.keypoints[:, :2] for _, track in pairs], np.float64).reshape(-1, count, 2)
        if self._filter is not None:
            sizes = np.sqrt([float(box_areas(track.box[None])[0]) for _, track in pairs])
            points = self._filter.smooth([track.id for _, track in pairs], points, sizes, self._time)
            self._filter.keep(self._tracker.tracks)
        return tuple(_tracked(person, track, xy) for (person, track), xy in zip(pairs, points, strict=True))


def _tracked(person: Person, track: Track, points: Doubles) -> Person:
    """A tracked person, rounded like untracked ones; without an id if the track has none."""
    x1, y1, x2, y2 = (round(float(value), 2) for value in track.box)
    keypoints = tuple(
        (round(x, 2), round(y, 2), score)
        for (x, y), (_, _, score) in zip(points.tolist(), person.keypoints, strict=True)
    )
    if track.track_id is None:
        return Person((x1, y1, x2, y2), person.score, keypoints)
    return TrackedPerson((x1, y1, x2, y2), person.score, keypoints, track.track_id)
