"""What is remembered of one camera: its tracks, its smooth keypoints, when to run the detector again."""

from collections.abc import Sequence

import numpy as np

from service.streaming.smoothing import Doubles, OneEuroFilter
from service.streaming.tracking import Track, Tracker, box_areas, oks
from service.types import Boxes, Person, TrackedPerson

_SAME = 0.8  # OKS above which two boxes have come to hold one person
_FRAME_S = 0.04  # between frames whose timestamps do not grow


class Camera:
    """Turns the persons of each frame of a camera into tracked ones.

    detect_every: the detector runs on one frame in so many at least; on the others persons are looked for
    where their keypoints were, as long as no track is lost or doubtful.
    """

    def __init__(self, *, smoothing: bool, detect_every: int) -> None:
        self._tracker = Tracker()
        self._filter = OneEuroFilter() if smoothing else None
        self._detect_every = detect_every
        self._followed = 0  # frames since the detector ran
        self._given, self._time = 0.0, 0.0  # of the last frame: its timestamp, and seconds since the first
        self._seen: list[Track] = []  # in the last frame
        self._doubt = False

    def boxes(self, time: float) -> Boxes | None:
        """Where the persons of the frame taken at `time`, in seconds, are looked for.

        None asks for the detector.
        """
        if self._doubt or not self._seen or self._followed + 1 >= self._detect_every:
            return None
        boxes = [track.moved_to(self._since_first(time)).box for track in self._seen]
        scores = [track.box_score for track in self._seen]
        return Boxes(np.stack(boxes), np.array(scores, np.float32))

    def update(self, persons: Sequence[Person], time: float, *, detected: bool) -> tuple[Person, ...]:
        """The persons of the frame taken at `time`, tracked; in the order given.

        detected: their boxes come from the detector, not from `boxes`.
        """
        self._given, self._time = time, self._since_first(time)
        sole = _without_doubles(persons)
        found = self._tracker.update(sole, self._time, detected=detected)
        pairs = [(person, track) for person, track in zip(sole, found, strict=True) if track is not None]
        lost = not detected and len(pairs) < len(self._seen)
        self._seen = [track for _, track in pairs]
        self._followed = 0 if detected else self._followed + 1
        self._doubt = lost or any(track.doubtful for track in self._seen)
        return self._answer(pairs)

    def _since_first(self, time: float) -> float:
        """Seconds that grow with every frame, even where a camera's clock is set back."""
        elapsed = time - self._given
        return self._time + (elapsed if elapsed > 0 else _FRAME_S)

    def _answer(self, pairs: Sequence[tuple[Person, Track]]) -> tuple[Person, ...]:
        points = np.array([track.keypoints[:, :2] for _, track in pairs], np.float64).reshape(-1, 17, 2)
        if self._filter is not None:
            sizes = np.sqrt([float(box_areas(track.box[None])[0]) for _, track in pairs])
            points = self._filter.smooth([track.id for _, track in pairs], points, sizes, self._time)
            self._filter.keep(self._tracker.tracks)
        return tuple(_tracked(person, track, xy) for (person, track), xy in zip(pairs, points, strict=True))


def _tracked(person: Person, track: Track, points: Doubles) -> Person:
    """Rounded as untracked persons are; without an id where the track has none yet."""
    x1, y1, x2, y2 = (round(float(value), 2) for value in track.box)
    keypoints = tuple(
        (round(x, 2), round(y, 2), score)
        for (x, y), (_, _, score) in zip(points.tolist(), person.keypoints, strict=True)
    )
    if track.track_id is None:
        return Person((x1, y1, x2, y2), person.score, keypoints)
    return TrackedPerson((x1, y1, x2, y2), person.score, keypoints, track.track_id)


def _without_doubles(persons: Sequence[Person]) -> list[Person]:
    """Persons by falling score, without those that are a better one seen twice."""
    if not persons:
        return []
    keypoints = np.array([person.keypoints for person in persons], np.float32)
    alike = oks(keypoints, keypoints, box_areas(np.array([person.bbox for person in persons], np.float32)))
    kept: list[int] = []
    for index in range(len(persons)):
        if not kept or alike[index, kept].max() < _SAME:
            kept.append(index)
    return [persons[index] for index in kept]
