from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model import detector, lgmpose, mpii
from model.geometry import Floats, Pixels
from model.keypoints import FLIP_INDEX, FLIP_PAIRS
from model.predictors import CropPose, LetterboxDetector, load_detector, load_pose, torch_pose
from tests.model.labelled import dotted
from tests.support.networks import BOX, save_networks


def left_and_right(crops: Pixels) -> Floats:
    """Heatmaps (N, 17, H/4, W/4) of a person that faces us with one hand up on each side.

    Everything on the right of the picture's bright spots is the person's left, so as a network does
    this knows left from right by what it sees: its answer to a mirror image is mirrored and swapped.
    """
    grey = crops.mean(3, dtype=np.float32) / 255
    n, height, width = grey.shape
    pooled = grey.reshape(n, height // 4, 4, width // 4, 4).mean((2, 4))
    middle = (pooled.sum(1) * np.arange(width // 4)).sum(1) / pooled.sum((1, 2))
    is_left = np.arange(width // 4)[None, None] > middle[:, None, None]
    left, right = pooled * is_left, pooled * ~is_left
    return np.stack([left, *([left, right] * 8)], 1)


def test_keypoints_come_back_in_image_pixels() -> None:
    points = np.array([[310.3, 105.6], [180.8, 91.1]], np.float32)  # left, right
    boxes = np.array([[150, 50, 350, 250], [170, -40, 330, 150], [120, 0, 380, 300]], np.float32)
    pose = CropPose(left_and_right, (256, 192), 4, 1.25)
    found = pose.keypoints(dotted(points), boxes)
    assert found.shape == (3, 17, 3)
    for left, right in FLIP_PAIRS:
        np.testing.assert_allclose(found[:, left, :2], [points[0]] * 3, atol=1)
        np.testing.assert_allclose(found[:, right, :2], [points[1]] * 3, atol=1)
    coarse = replace(pose, dark=False).keypoints(dotted(points), boxes)
    assert 0 < np.abs(coarse - found)[..., :2].max() < 8


def test_the_flip_average_agrees_only_with_the_right_mirror_image() -> None:
    points = np.array([[310.3, 105.6], [180.8, 91.1]], np.float32)
    boxes = np.array([[150, 50, 340, 250]], np.float32)
    pose = CropPose(left_and_right, (256, 192), 4, 1.25)
    plain = pose.keypoints(dotted(points), boxes)
    averaged = replace(pose, mirror=FLIP_INDEX).keypoints(dotted(points), boxes)
    np.testing.assert_allclose(averaged[0, 1:], plain[0, 1:], atol=0.5)
    unswapped = replace(pose, mirror=tuple(range(17))).keypoints(dotted(points), boxes)
    assert np.abs(unswapped[0, 1:, 2] - plain[0, 1:, 2]).min() > 0.2


def bright_boxes(canvases: Pixels) -> tuple[Floats, Floats]:
    """Boxes (N, 3, 4) of the white pixels: exact, a worse copy, and one with hardly any score."""
    boxes = []
    for canvas in canvases:
        rows, columns = np.nonzero(canvas[..., 0] > 200)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    exact = np.array(boxes, np.float32)[:, None]
    scores = np.array([[0.6, 0.9, 0.001]] * len(canvases), np.float32)
    return np.concatenate([exact - 2, exact, exact + 90], 1), scores


@pytest.mark.parametrize("shape", [(300, 900), (900, 300), (200, 100)])
def test_boxes_come_back_in_image_pixels(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 30, np.uint8)
    image[60:150, 30:80] = 255
    boxes, scores = LetterboxDetector(bright_boxes, (320, 320), 114).persons(image)
    np.testing.assert_allclose(boxes, [[30, 60, 80, 150]], atol=max(shape) / 320)
    np.testing.assert_allclose(scores, [0.9])


def test_boxes_end_at_the_border_and_fall_in_score() -> None:
    def network(canvases: Pixels) -> tuple[Floats, Floats]:
        boxes = [[-20, -30, 100, 400], [200, 100, 500, 200], [400, 10, 500, 90], [50, 50, 50, 90]]
        return np.array([boxes], np.float32), np.array([[0.4, 0.7, 0.9, 0.8]], np.float32)

    boxes, scores = LetterboxDetector(network, (320, 320), 114).persons(np.zeros((240, 320, 3), np.uint8))
    assert boxes.tolist() == [[200, 100, 320, 200], [0, 0, 100, 240]]  # what lies outside has no area
    np.testing.assert_allclose(scores, [0.7, 0.4])


class RedDot(lgmpose.LGMPose):
    """A pose network that puts every keypoint where the crop is reddest."""

    def forward(self, crops: Tensor) -> Tensor:
        red: Tensor = torch.nn.functional.avg_pool2d(crops[:, :1], 4) / 255
        return red.expand(-1, self.config.num_keypoints, -1, -1)


def test_networks_in_torch_see_red_green_blue() -> None:
    red, blue = dotted(np.array([[300, 120]], np.float32)), dotted(np.array([[200, 200]], np.float32))
    image = np.concatenate([blue[..., :1], blue[..., :1] * 0, red[..., :1]], 2)
    found = torch_pose(RedDot().eval()).keypoints(image, np.array([[100, 50, 400, 350]], np.float32))
    np.testing.assert_allclose(found[0, :, :2], [[300, 120]] * 17, atol=1)
    sixteen = RedDot(lgmpose.for_input(lgmpose.LGMPoseConfig(), 256, 256, 16)).eval()
    pose = torch_pose(sixteen, mirror=mpii.FLIP_INDEX)
    found = pose.keypoints(image, np.array([[100, 50, 400, 350]], np.float32))
    assert found.shape == (1, 16, 3)
    np.testing.assert_allclose(found[0, :, :2], [[300, 120]] * 16, atol=1)


def test_checkpoints_answer_as_the_network_that_was_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    boxes = np.array([[20, 30, 200, 220], [5, 5, 90, 200]], np.float32)
    network = lgmpose.LGMPose().eval()
    lgmpose.save(network, tmp_path / "pose.safetensors")
    loaded = load_pose(tmp_path / "pose.safetensors", dark=False)
    np.testing.assert_array_equal(
        loaded.keypoints(image, boxes), torch_pose(network, dark=False).keypoints(image, boxes)
    )
    persons = detector.PersonDetector().eval()
    torch.nn.init.constant_(persons.score.bias, 0.0)
    detector.save(persons, tmp_path / "detector.safetensors")
    found, scores = load_detector(tmp_path / "detector.safetensors").persons(image)
    assert len(found) and (np.diff(scores) <= 0).all() and (found <= (320, 240, 320, 240)).all()


def test_exported_files_tell_how_they_are_fed(tmp_path: Path) -> None:
    save_networks(tmp_path)
    pose, persons = load_pose(tmp_path / "pose.onnx"), load_detector(tmp_path / "detector.onnx")
    assert (pose.size, pose.stride, pose.padding) == ((256, 192), 4, 1.25)
    image = np.zeros((320, 320, 3), np.uint8)
    points = np.array([[120.3, 60.2], [200.4, 150.1], [160.0, 250.7]], np.float32)  # blue, green, red
    for channel, at in enumerate(points):
        image[..., channel] = dotted(at[None], (320, 320))[..., channel]
    boxes, scores = persons.persons(image)
    np.testing.assert_allclose(boxes, [BOX])
    assert 0.9 < scores[0] <= 1
    np.testing.assert_allclose(pose.keypoints(image, boxes)[0, :3, :2], points, atol=0.5)
