"""COCO keypoint results."""

from service.core.coco import coco_results
from service.types import Person, Poses, Timings


def test_keypoints_outside_the_picture_are_clipped_to_it() -> None:
    """Those of a half-length photo below its lower edge, and of a person at its left one."""
    points = ((-3.5, 10.0, 0.2), (99.4, 50.0, 0.9), (20.0, 61.5, 0.1), *[(5.0, 6.0, 0.5)] * 14)
    poses = Poses(100, 60, (Person((0, 1.5, 99, 60), 0.7, points),), Timings(0, 0, 0, 0, 0))
    (result,) = coco_results([poses])
    assert result.keypoints[:9] == [0.0, 10.0, 0.2, 99.0, 50.0, 0.9, 20.0, 59.0, 0.1]
    assert result.keypoints[9:] == [5.0, 6.0, 0.5] * 14
    assert result.bbox == (0, 1.5, 99, 58.5)
