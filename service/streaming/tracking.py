"""Assigns the persons of each frame of one camera to tracks.

A track is one person. Persons of a new frame are assigned to tracks by the similarity of their keypoints
(OKS) and boxes (IoU), after each track is moved on with its velocity. A track without a person is kept for
a short time, so a short occlusion does not change an id. Coordinates are pixels of the frame, times are
seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from scipy.optimize import linear_sum_assignment

from model.geometry import box_areas, iou
from model.keypoints import COCO, Skeleton, keypoint_score, oks, oks_weights
from service.types import Floats, Person

BRIDGED_S = 1.5  # a longer occlusion ends a track
_MIN_SIMILARITY = 0.2  # below it a person matches no track
_EXTRAPOLATED_S = 1.0  # longest extrapolation of the velocity
_SPEED_SHARE = 0.4  # weight of the newest velocity in the mean
_SHORTEST_S = 0.02  # of a velocity: frames that were delayed on their way may arrive together
_CONFIRMED_AFTER = 3  # sightings before a track gets an id, so single false detections get none
_FEWEST_COUNTED = 4  # keypoints that move a box
_GROWTH = 0.8, 1.25  # change of a box between two detections; more is an error
_FADED = 0.6  # share of the mean keypoint score at the last detection


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A person over time. `track_id` is None until the person has been seen on enough frames.

    keypoints (K, 3) x, y, score and box (4,) of the last sighting, at time `seen`; velocity (2,) in pixels
    per second. detected_box, detected_keypoints and box_score are those of the last detection.
    """

    id: int
    box: Floats
    keypoints: Floats
    seen: float
    detected_box: Floats
    detected_keypoints: Floats
    box_score: float
    velocity: Floats = field(default_factory=lambda: np.zeros(2, np.float32))
    uncertain: bool = False
    sightings: int = 1
    track_id: int | None = None

    def moved_to(self, time: float) -> "Track":
        """The track moved with its velocity to `time`."""
        shift = self.velocity * np.float32(min(time - self.seen, _EXTRAPOLATED_S))
        keypoints = self.keypoints + np.array([*shift, 0], np.float32)
        return replace(self, box=self.box + np.tile(shift, 2), keypoints=keypoints)

    def detected_as(self, person: Person, time: float) -> "Track":
        """The track updated with a person whose box comes from the detector."""
        box, keypoints = _arrays(person)
        track = self._seen(box, keypoints, time)
        score = _box_score(person, keypoints)
        return replace(
            track, detected_box=box, detected_keypoints=keypoints, box_score=score, uncertain=False
        )

    def followed_as(self, person: Person, time: float) -> "Track":
        """The track updated with a person found in the track's box; the keypoints move the box."""
        _, keypoints = _arrays(person)
        box, valid = _carry(self.detected_box, self.detected_keypoints, keypoints)
        faded = keypoints[:, 2].mean() < _FADED * self.detected_keypoints[:, 2].mean()
        return replace(self._seen(box, keypoints, time), uncertain=bool(faded) or not valid)

    def _seen(self, box: Floats, keypoints: Floats, time: float) -> "Track":
        velocity = (_centre(box) - _centre(self.box)) / np.float32(max(time - self.seen, _SHORTEST_S))
        velocity = self.velocity + np.float32(_SPEED_SHARE) * (velocity - self.velocity)
        sightings = self.sightings + 1
        return replace(self, box=box, keypoints=keypoints, seen=time, velocity=velocity, sightings=sightings)


class Tracker:
    """The tracks of one camera: those seen in the last frame, and those lost recently."""

    def __init__(self, skeleton: Skeleton = COCO) -> None:
        """skeleton: of the persons' keypoints."""
        self._skeleton = skeleton
        self.tracks: dict[int, Track] = {}
        self._ids, self._track_ids = count(), count(1)
        self._confirmed_after = 1  # persons of the first frame get an id at once

    def update(self, persons: Sequence[Person], time: float, *, detected: bool) -> list[Track | None]:
        """The track of each person of the frame captured at `time`, which must increase.

        A newly detected person starts a track, which ends if the person is missed before it has a track id.
        Track ids count from 1 and are not reused. A person found in a track's box that matches no track has
        none.
        """
        old = [track for track in self.tracks.values() if time - track.seen <= BRIDGED_S]
        assigned = _assign([track.moved_to(time) for track in old], persons, self._skeleton)
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


def _assign(tracks: Sequence[Track], persons: Sequence[Person], skeleton: Skeleton) -> dict[int, int]:
    """Index of a person -> index of its track, with the largest sum of similarities."""
    if not tracks or not persons:
        return {}
    boxes, keypoints = (np.stack(each) for each in zip(*map(_arrays, persons), strict=True))
    track_boxes = np.stack([track.box for track in tracks])
    before = np.stack([track.keypoints for track in tracks])
    alike = oks(before, keypoints, box_areas(track_boxes), skeleton)
    similarity = (alike + iou(track_boxes, boxes)) / 2
    # pairs below the minimum count as 0, otherwise they influence the other assignments
    gains = np.where(similarity < _MIN_SIMILARITY, 0, similarity)
    pairs = zip(*linear_sum_assignment(gains, maximize=True), strict=True)
    return {int(person): int(track) for track, person in pairs if gains[track, person]}


def _carry(box: Floats, before: Floats, after: Floats) -> tuple[Floats, bool]:
    """A box (4,) moved and scaled like its keypoints (K, 3), and whether the result is valid."""
    weights = oks_weights(before) * oks_weights(after)
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
    """Box (4,) and keypoints (K, 3) of a person."""
    return np.array(person.bbox, np.float32), np.array(person.keypoints, np.float32)


def _box_score(person: Person, keypoints: Floats) -> float:
    """The score of a person's box: the person's score without that of the keypoints."""
    return min(1.0, person.score / max(float(keypoint_score(keypoints[:, 2])), 1e-3))


def _centre(box: Floats) -> Floats:
    return (box[:2] + box[2:]) * np.float32(0.5)
