"""Ids from frame to frame, with walkers on known paths."""

from collections.abc import Iterable

import numpy as np

from service.streaming.tracking import Tracker
from service.types import Person

STEP_S = 0.1
# a standing person in a box of 1 x 1
FIGURE = np.array(
    [
        (0.5, 0.1), (0.53, 0.08), (0.47, 0.08), (0.58, 0.1), (0.42, 0.1), (0.68, 0.22), (0.32, 0.22),
        (0.75, 0.38), (0.25, 0.38), (0.77, 0.52), (0.23, 0.52), (0.6, 0.52), (0.4, 0.52), (0.6, 0.73),
        (0.4, 0.73), (0.6, 0.95), (0.4, 0.95),
    ]
)  # fmt: skip


def person(x: float, y: float = 100, *, height: float = 100, score: float = 0.9, noise: float = 0) -> Person:
    """A person standing with the middle of the box at x, y."""
    width = 0.4 * height
    low = np.array([x - width / 2, y - height / 2])
    points = low + FIGURE * (width, height)
    points += np.random.default_rng(round(1000 * (x + y))).normal(0, 1, points.shape) * noise
    keypoints = tuple((float(px), float(py), score) for px, py in points)
    return Person((low[0], low[1], low[0] + width, low[1] + height), score * score, keypoints)


def ids(
    tracker: Tracker, persons: Iterable[Person], step: float, *, detected: bool = True
) -> list[int | None]:
    """The tracks of the persons of the frame `step`, numbered from 1."""
    found = tracker.update(list(persons), step * STEP_S, detected=detected)
    return [None if track is None else track.id + 1 for track in found]


def test_ids_do_not_depend_on_the_order_of_persons() -> None:
    tracker, rng = Tracker(), np.random.default_rng(0)
    for step in range(60):
        walkers = [person(50 + 4 * step, noise=1), person(400 - 4 * step, 260), person(220, 400, noise=2)]
        order = rng.permutation(3)
        expected = [1, 2, 3] if step == 0 else [int(index) + 1 for index in order]
        given = walkers if step == 0 else [walkers[index] for index in order]
        assert ids(tracker, given, step) == expected


def test_ids_survive_a_crossing() -> None:
    tracker = Tracker()
    for step in range(50):
        near, far = person(100 + 8 * step, 100, height=120), person(500 - 8 * step, 108, height=100)
        assert ids(tracker, [near, far], step) == [1, 2]


def test_frames_that_arrive_at_almost_the_same_time_show_no_great_speed() -> None:
    tracker = Tracker()
    for x, time in ((100, 0.0), (102, 0.0001), (101, 0.0002)):
        tracker.update([person(x)], time, detected=True)
    (track,) = tracker.tracks.values()
    assert np.abs(track.moved_to(0.05).box - track.box).max() < 5


def test_a_short_occlusion_is_bridged() -> None:
    tracker = Tracker()
    for step in range(20):
        assert ids(tracker, [person(100 + 5 * step)], step) == [1]
    for step in range(20, 30):
        assert ids(tracker, [], step) == []
    for step in range(30, 40):
        assert ids(tracker, [person(100 + 5 * step)], step) == [1]


def test_a_person_who_was_away_for_long_gets_a_new_id() -> None:
    tracker = Tracker()
    ids(tracker, [person(100)], 0)
    assert ids(tracker, [], 20) == []
    assert ids(tracker, [person(100)], 21) == [2]
    assert set(tracker.tracks) == {1}


def test_a_person_at_another_place_gets_a_new_id() -> None:
    tracker = Tracker()
    assert ids(tracker, [person(100)], 0) == [1]
    assert ids(tracker, [person(300)], 1) == [2]
    assert ids(tracker, [person(300), person(102)], 2) == [2, 1]


def test_a_newcomer_gets_an_unused_id() -> None:
    tracker = Tracker()
    ids(tracker, [person(100), person(160)], 0)
    assert ids(tracker, [person(130, 300), person(161), person(101)], 1) == [3, 2, 1]


def test_assignment_maximises_the_sum_of_similarities() -> None:
    """Two persons move 30 pixels to the right, so the one in the middle matches both tracks."""
    tracker = Tracker()
    ids(tracker, [person(100), person(124)], 0)
    assert ids(tracker, [person(112), person(136)], 1) == [1, 2]


def track_ids(tracker: Tracker, persons: Iterable[Person], step: float) -> list[int | None]:
    found = tracker.update(list(persons), step * STEP_S, detected=True)
    return [None if track is None else track.track_id for track in found]


def test_first_frame_persons_have_ids_at_once_and_newcomers_after_three_frames() -> None:
    tracker = Tracker()
    assert track_ids(tracker, [person(100)], 0) == [1]
    assert track_ids(tracker, [person(100), person(300)], 1) == [1, None]
    assert track_ids(tracker, [person(100), person(300)], 2) == [1, None]
    assert track_ids(tracker, [person(100), person(300)], 3) == [1, 2]


def test_a_single_false_detection_gets_no_id() -> None:
    tracker = Tracker()
    assert track_ids(tracker, [person(100)], 0) == [1]
    for step in range(1, 9, 2):
        assert track_ids(tracker, [person(100), person(300)], step) == [1, None]
        assert track_ids(tracker, [person(100)], step + 1) == [1]
    assert len(tracker.tracks) == 1
    for step in range(10, 12):
        assert track_ids(tracker, [person(300)], step) == [None]
    assert track_ids(tracker, [person(300)], 12) == [2]


def test_boxes_follow_keypoints_between_detections() -> None:
    tracker = Tracker()
    ids(tracker, [person(100)], 0)
    stale = person(100)
    for step in range(1, 6):
        here = person(100 + 3 * step, height=100 + step)
        (track,) = tracker.update([Person(stale.bbox, 0.8, here.keypoints)], step * STEP_S, detected=False)
        assert track is not None
        assert not track.uncertain
        np.testing.assert_allclose(track.box, here.bbox, atol=0.1)


def test_faded_or_spread_keypoints_are_uncertain() -> None:
    for bad in (person(101, score=0.4), person(101, height=160), person(101, score=0.1)):
        tracker = Tracker()
        before = person(100)
        ids(tracker, [before], 0)
        seen = Person(before.bbox, bad.score, bad.keypoints)
        (track,) = tracker.update([seen], STEP_S, detected=False)
        assert track is not None
        assert track.uncertain
        (track,) = tracker.update([person(101)], 2 * STEP_S, detected=True)
        assert track is not None
        assert not track.uncertain


def test_only_detections_start_tracks() -> None:
    tracker = Tracker()
    ids(tracker, [person(100)], 0)
    assert ids(tracker, [person(400), person(101)], 1, detected=False) == [None, 1]
    assert ids(tracker, [person(400)], 2) == [2]
