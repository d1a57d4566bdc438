"""The state of a camera between frames."""

import numpy as np
import pytest

from model.keypoints import COCO
from service.inference.persons import find_persons
from service.streaming.camera import Camera
from service.types import Boxes, InferenceInput, Options, Person, TrackedPerson
from tests.streaming.test_tracking import person


def test_two_tracks_of_one_person_are_merged_and_start_the_detector() -> None:
    camera = Camera(smoothing=False, detect_every=100)
    camera.update([person(100), person(130)], 0.0, detected=True)
    given = camera.boxes(0.1)
    assert given is not None
    assert len(given.boxes) == 2
    same, other = person(131), person(100)
    boxes = np.array([same.bbox, other.bbox], np.float32)
    keypoints = np.array([same.keypoints] * 2, np.float32)
    frame = InferenceInput(np.zeros((1, 1, 3), np.uint8), Options())
    persons = find_persons(frame, Boxes(boxes, np.array([0.9, 0.5], np.float32)), keypoints, COCO)
    found = camera.update(persons, 0.1, detected=False)
    assert [each.track_id for each in found if isinstance(each, TrackedPerson)] == [2]
    assert camera.boxes(0.2) is None


def test_an_uncertain_track_starts_the_detector() -> None:
    camera = Camera(smoothing=False, detect_every=100)
    camera.update([person(100)], 0.0, detected=True)
    camera.update([Person(person(100).bbox, 0.3, person(101, score=0.3).keypoints)], 0.1, detected=False)
    assert camera.boxes(0.2) is None
    camera.update([person(102)], 0.2, detected=True)
    assert camera.boxes(0.3) is not None


def test_without_tracks_the_detector_runs() -> None:
    camera = Camera(smoothing=False, detect_every=100)
    assert camera.boxes(0.0) is None
    camera.update([], 0.0, detected=True)
    assert camera.boxes(0.1) is None


@pytest.mark.parametrize("step", [1.4, 1.6, 60.0])
def test_persons_of_a_slow_camera_are_found_on_each_frame(step: float) -> None:
    camera = Camera(smoothing=False, detect_every=100)
    for number in range(4):
        detected = camera.boxes(number * step) is None
        assert detected is (number == 0 or step > 1.5)
        assert len(camera.update([person(100)], number * step, detected=detected)) == 1


@pytest.mark.parametrize("detected", [True, False])
def test_persons_keep_their_order_and_scores(detected: bool) -> None:
    camera = Camera(smoothing=True, detect_every=2)
    camera.update([person(300), person(100)], 0.0, detected=True)
    found = camera.update([person(100, score=0.8), person(300)], 0.1, detected=detected)
    assert [each.track_id for each in found if isinstance(each, TrackedPerson)] == [2, 1]
    assert [each.score for each in found] == [pytest.approx(0.64), pytest.approx(0.81)]
    assert all(len(each.keypoints) == 17 for each in found)
