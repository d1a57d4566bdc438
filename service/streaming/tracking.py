"""Who is who from frame to frame of one camera.

A track is one person. Persons of a new frame are assigned to tracks by how alike their keypoints (OKS) and
boxes (IoU) are, the tracks moved on at their speed first; a track without a person is kept for a while, so
that a short occlusion does not change anybody's id. Coordinates are pixels of the frame, times are seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from scipy.optimize import linear_sum_assignment

from model.keypoints import MIN_KEYPOINT_SCORE, OKS_SIGMAS, keypoint_score
from service.types import Floats, Person

_MIN_SIMILARITY = 0.2  # below it a person is nobody seen before
_BRIDGED_S = 1.5  # an occlusion that is longer ends a track
_EXTRAPOLATED_S = 1.0  # further ahead the speed says nothing
_SPEED_SHARE = 0.4  # of the newest speed in the mean
_CONFIRMED_AFTER = 3  # sightings; a detector's single errors become nobody's id
_FEWEST_COUNTED = 4  # keypoints that carry a box along
_GROWTH = 0.8, 1.25  # of a box between two detections; more is an error
_FADED = 0.6  # of the keypoints' mean score at the last detection
_VARIANCES = ((2 * np.array(OKS_SIGMAS)) ** 2).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A person over time. `track_id` is None until the person has been seen often enough.

    keypoints (17, 3) x, y, score and box (4,) as last seen, at time `seen`; velocity (2,) in pixels a second.
    detected_box and detected_keypoints are those of the last frame that the detector saw, box_score is how
    sure it was.
    """

    id: int
    box: Floats
    keypoints: Floats
    seen: float
    detected_box: Floats
    detected_keypoints: Floats
    box_score: float
    velocity: Floats = field(default_factory=lambda: np.zeros(2, np.float32))
    doubtful: bool = False
    sightings: int = 1
    track_id: int | None = None

    def moved_to(self, time: float) -> "Track":
        """The track where its speed takes it by `time`."""
        shift = self.velocity * np.float32(min(time - self.seen, _EXTRAPOLATED_S))
        keypoints = self.keypoints + np.array([*shift, 0], np.float32)
        return replace(self, box=self.box + np.tile(shift, 2), keypoints=keypoints)

    def detected_as(self, person: Person, time: float) -> "Track":
        """The track with a person whose box comes from the detector."""
        box, keypoints = _arrays(person)
        track = self._seen(box, keypoints, time)
        score = _box_score(person, keypoints)
        return replace(track, detected_box=box, detected_keypoints=keypoints, box_score=score, doubtful=False)

    def followed_as(self, person: Person, time: float) -> "Track":
        """The track with a person looked for in its own box; keypoints carry the box along."""
        _, keypoints = _arrays(person)
        box, sound = _carry(self.detected_box, self.detected_keypoints, keypoints)
        faded = keypoints[:, 2].mean() < _FADED * self.detected_keypoints[:, 2].mean()
        return replace(self._seen(box, keypoints, time), doubtful=bool(faded) or not sound)

    def _seen(self, box: Floats, keypoints: Floats, time: float) -> "Track":
        velocity = (_centre(box) - _centre(self.box)) / np.float32(time - self.seen)
        velocity = self.velocity + np.float32(_SPEED_SHARE) * (velocity - self.velocity)
        sightings = self.sightings + 1
        return replace(self, box=box, keypoints=keypoints, seen=time, velocity=velocity, sightings=sightings)


class Tracker:
    """The tracks of one camera: those seen in the last frame, and those lost a short time ago."""

    def __init__(self) -> None:
        self.tracks: dict[int, Track] = {}
        self._ids, self._track_ids = count(), count(1)
        self._confirmed_after = 1  # whoever is there from the start needs no proof

    def update(self, persons: Sequence[Person], time: float, *, detected: bool) -> list[Track | None]:
        """The track of each person of the frame taken at `time`, later than any before.

        Persons that the detector finds for the first time begin tracks; one that is missed before it has a
        track id is forgotten. Track ids count from 1 and are never used again. A person looked for in a
        track's box who is like none of the tracks has none.
        """
        old = [track for track in self.tracks.values() if time - track.seen <= _BRIDGED_S]
        assigned = _assign([track.moved_to(time) for track in old], persons)
        found: list[Track | None] = []
        for index, person in enumerate(persons):
            if index in assigned:
                track = old[assigned[index]]
                track = track.detected_as(person, time) if detected else track.followed_as(person, time)
                found.append(self._confirmed(track))
            else:
                found.append(self._confirmed(self._begin(person, time)) if detected else None)
        bridged = [track for track in old if track.track_id is not None]
        self.tracks = {track.id: track for track in (*bridged, *found) if track is not None}
        self._confirmed_after = _CONFIRMED_AFTER
        return found

    def _confirmed(self, track: Track) -> Track:
        if track.track_id is None and track.sightings >= self._confirmed_after:
            return replace(track, track_id=next(self._track_ids))
        return track

    def _begin(self, person: Person, time: float) -> Track:
        box, keypoints = _arrays(person)
        score = _box_score(person, keypoints)
        return Track(next(self._ids), box, keypoints, time, box, keypoints, score)


def oks(a: Floats, b: Floats, areas: Floats) -> Floats:
    """Object keypoint similarity (N, M) of keypoints a (N, 17, 3) with b (M, 17, 3).

    areas: (N,) square pixels of the persons of a. Each keypoint counts by the product of its two scores.
    Source: https://cocodataset.org/#keypoints-eval.
    """
    squares = ((a[:, None, :, :2] - b[None, :, :, :2]) ** 2).sum(-1)
    likeness = np.exp(-squares / (2 * np.maximum(areas, 1)[:, None, None] * _VARIANCES))
    weights = _weights(a)[:, None] * _weights(b)[None]
    total = weights.sum(-1)
    return np.asarray((likeness * weights).sum(-1) / np.where(total > 0, total, 1), np.float32)


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union (N, M) of boxes a (N, 4) with b (M, 4), each x1, y1, x2, y2."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(0).prod(-1)
    union = box_areas(a)[:, None] + box_areas(b)[None] - common
    return np.asarray(common / np.where(union > 0, union, 1), np.float32)


def box_areas(boxes: Floats) -> Floats:
    """Square pixels (N,) of boxes (N, 4)."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1), np.float32)


def _assign(tracks: Sequence[Track], persons: Sequence[Person]) -> dict[int, int]:
    """Index of a person -> index of its track, the sum of similarities being the largest possible."""
    if not tracks or not persons:
        return {}
    boxes, keypoints = (np.stack(each) for each in zip(*map(_arrays, persons), strict=True))
    track_boxes = np.stack([track.box for track in tracks])
    alike = oks(np.stack([track.keypoints for track in tracks]), keypoints, box_areas(track_boxes))
    similarity = (alike + iou(track_boxes, boxes)) / 2
    # what is too unlike counts nothing, or it would pull an assignment its way
    gains = np.where(similarity < _MIN_SIMILARITY, 0, similarity)
    pairs = zip(*linear_sum_assignment(gains, maximize=True), strict=True)
    return {int(person): int(track) for track, person in pairs if gains[track, person]}


def _carry(box: Floats, before: Floats, after: Floats) -> tuple[Floats, bool]:
    """A box (4,) moved and scaled as its keypoints (17, 3) did, and whether that can be trusted."""
    weights = _weights(before) * _weights(after)
    if np.count_nonzero(weights) < _FEWEST_COUNTED:
        return box, False
    weights = (weights / weights.sum())[:, None]
    centres = [(weights * each[:, :2]).sum(0) for each in (before, after)]
    spreads = [
        float(np.sqrt((weights * (each[:, :2] - centre) ** 2).sum()))
        for each, centre in zip((before, after), centres, strict=True)
    ]
    growth = spreads[1] / max(spreads[0], 1e-3)
    low, high = _GROWTH
    corners = centres[1] + (box.reshape(2, 2) - centres[0]) * np.float32(min(max(growth, low), high))
    return corners.astype(np.float32).reshape(4), low <= growth <= high


def _arrays(person: Person) -> tuple[Floats, Floats]:
    """Box (4,) and keypoints (17, 3) of a person."""
    return np.array(person.bbox, np.float32), np.array(person.keypoints, np.float32)


def _box_score(person: Person, keypoints: Floats) -> float:
    """The detector's part in a person's score."""
    return min(1.0, person.score / max(float(keypoint_score(keypoints[:, 2])), 1e-3))


def _weights(keypoints: Floats) -> Floats:
    scores = keypoints[..., 2]
    return np.asarray(np.where(scores >= MIN_KEYPOINT_SCORE, scores, 0), np.float32)


def _centre(box: Floats) -> Floats:
    return (box[:2] + box[2:]) * np.float32(0.5)
