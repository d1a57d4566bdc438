"""The pipeline on arrays, with networks whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest

from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Alignment, Fit, Floats, Pixels
from model.keypoints import FLIP_INDEX, FLIP_PAIRS
from model.predictors import flip_average
from model.topdown import CROPS_PER_RUN, Detector, PoseEstimator
from tests.model.labelled import dotted

POSE = PoseMetadata(
    name="", version="", commit="", input_size=(256, 192), crop_padding=1.25, heatmap_stride=4
)
DETECTOR = DetectorMetadata(name="", version="", commit="", input_size=(320, 320), letterbox_fill=114)
POINTS = np.array([[310.3, 105.6], [180.8, 91.1]], np.float32)  # left, right


def left_and_right(crops: Pixels) -> tuple[Floats, ...]:
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
    return (np.stack([left, *([left, right] * 8)], 1),)


def test_keypoints_come_back_in_image_pixels() -> None:
    boxes = np.array([[150, 50, 350, 250], [170, -40, 330, 150], [120, 0, 380, 300]], np.float32)
    pose = PoseEstimator(left_and_right, POSE)
    (found,) = pose.estimate([dotted(POINTS)], [boxes])
    assert found.shape == (3, 17, 3)
    for left, right in FLIP_PAIRS:
        np.testing.assert_allclose(found[:, left, :2], [POINTS[0]] * 3, atol=1)
        np.testing.assert_allclose(found[:, right, :2], [POINTS[1]] * 3, atol=1)
    (coarse,) = replace(pose, dark=False).estimate([dotted(POINTS)], [boxes])
    assert 0 < np.abs(coarse - found)[..., :2].max() < 8


def test_crops_of_several_images_keep_their_order() -> None:
    images = [dotted(POINTS), dotted(POINTS + 20), dotted(POINTS)]
    box = np.array([[150, 50, 350, 250]], np.float32)
    boxes = [np.repeat(box, CROPS_PER_RUN, 0), np.zeros((0, 4), np.float32), box]
    together = PoseEstimator(left_and_right, POSE).estimate(images, boxes)
    assert [each.shape for each in together] == [(CROPS_PER_RUN, 17, 3), (0, 17, 3), (1, 17, 3)]
    np.testing.assert_array_equal(together[0], np.repeat(together[2], CROPS_PER_RUN, 0))


def test_the_flip_test_swaps_left_and_right() -> None:
    boxes = [np.array([[150, 50, 340, 250]], np.float32)]
    pose = PoseEstimator(left_and_right, POSE)
    plain, averaged, unswapped = (
        replace(pose, network=network).estimate([dotted(POINTS)], boxes)[0]
        for network in (
            left_and_right,
            flip_average(left_and_right, FLIP_INDEX),
            flip_average(left_and_right, range(17)),
        )
    )
    np.testing.assert_allclose(averaged[0, 1:], plain[0, 1:], atol=0.5)
    assert np.abs(unswapped[0, 1:, 2] - plain[0, 1:, 2]).min() > 0.2


def as_classes(crops: Pixels) -> tuple[Floats, ...]:
    """Both coordinates of the brightest place as classes of half a pixel: pixel i is class 2 i."""
    grey = crops.mean(3, dtype=np.float32) / 255
    x, y = (np.repeat(grey.max(axis), 2, 1)[:, None].repeat(17, 1) for axis in (1, 2))
    x[..., 1::2] -= 0.001
    y[..., 1::2] -= 0.001
    return x, y


@pytest.mark.parametrize("alignment", Alignment)
def test_a_network_of_classes_is_decoded_as_such(alignment: Alignment) -> None:
    """Class 2 i of a crop of ORIGINS is at pixel i; the other alignments place it within a pixel of that."""
    metadata = replace(POSE, heatmap_stride=0.5, alignment=alignment)
    box = np.array([[250, 60, 350, 160]], np.float32)
    (found,) = PoseEstimator(as_classes, metadata).estimate([dotted(POINTS[:1])], [box])
    np.testing.assert_allclose(found[0, :, :2], [POINTS[0]] * 17, atol=1)
    assert 0.9 < found[0, :, 2].min() <= found[0, :, 2].max() <= 1


def bright_boxes(canvases: Pixels) -> tuple[Floats, ...]:
    """Boxes (N, 3, 4) of the white pixels: exact, a worse copy, and one with hardly any score."""
    boxes = []
    for canvas in canvases:
        rows, columns = np.nonzero(canvas[..., 0] > 200)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    exact = np.array(boxes, np.float32)[:, None]
    scores = np.array([[0.6, 0.9, 0.001]] * len(canvases), np.float32)
    return np.concatenate([exact - 2, exact, exact + 90], 1), scores


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("shape", [(300, 900), (900, 300), (200, 100)])
def test_boxes_come_back_in_image_pixels(shape: tuple[int, int], fit: Fit) -> None:
    image = np.full((*shape, 3), 30, np.uint8)
    image[60:150, 30:80] = 255
    detector = Detector(bright_boxes, replace(DETECTOR, fit=fit))
    for boxes, scores in detector.detect([image, image]):
        np.testing.assert_allclose(boxes, [[30, 60, 80, 150]], atol=max(shape) / 320)
        np.testing.assert_allclose(scores, [0.9])


def test_a_network_of_any_size_sees_no_more_than_the_image_needs() -> None:
    seen = []

    def network(canvases: Pixels) -> tuple[Floats, ...]:
        seen.append(canvases.shape)
        return bright_boxes(canvases)

    images = [np.full((*shape, 3), 30, np.uint8) for shape in ((300, 900), (900, 300), (900, 900))]
    for image in images:
        image[60:150, 30:80] = 255
    found = Detector(network, replace(DETECTOR, input_step=32)).detect(images)
    assert seen == [(1, 128, 320, 3), (1, 320, 128, 3), (1, 320, 320, 3)]
    for boxes, scores in found:
        np.testing.assert_allclose(boxes, [[30, 60, 80, 150]], atol=3)
        np.testing.assert_allclose(scores, [0.9])


def test_boxes_end_at_the_border_and_descend_in_score() -> None:
    def network(canvases: Pixels) -> tuple[Floats, ...]:
        boxes = [[-20, -30, 100, 400], [200, 100, 500, 200], [400, 10, 500, 90], [50, 50, 50, 90]]
        return np.array([boxes], np.float32), np.array([[0.4, 0.7, 0.9, 0.8]], np.float32)

    ((boxes, scores),) = Detector(network, DETECTOR).detect([np.zeros((240, 320, 3), np.uint8)])
    assert boxes.tolist() == [[200, 100, 320, 200], [0, 0, 100, 240]]  # what lies outside has no area
    np.testing.assert_allclose(scores, [0.7, 0.4])
