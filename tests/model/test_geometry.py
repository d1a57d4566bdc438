import cv2
import numpy as np
import pytest

from model.geometry import (
    average_boxes,
    box_to_affine,
    crop,
    decode_heatmaps,
    encode_heatmaps,
    invert,
    letterbox,
    non_maximum_suppression,
    transform,
)
from model.keypoints import FLIP_INDEX, FLIP_PAIRS, NAMES
from tests.model.labelled import PORTRAIT

SIZE = 256, 192
BOXES = [(10, 20, 60, 200), (0.5, 0.5, 511.5, 30), (300, 300, 301, 302), (-50, 400, 40, 700), (7, 7, 7, 7)]


@pytest.mark.parametrize("box", BOXES)
def test_points_return_from_the_crop(box: tuple[float, ...]) -> None:
    affine = box_to_affine(box, SIZE, 1.25)
    points = np.random.default_rng(0).uniform(-100, 600, (50, 2)).astype(np.float32)
    back = transform(transform(points, affine), invert(affine))
    scale = affine[0, 0]
    np.testing.assert_allclose(back, points, atol=max(1e-3, 1e-3 / scale))


@pytest.mark.parametrize("box", BOXES)
def test_a_crop_holds_its_box_in_the_middle(box: tuple[float, ...]) -> None:
    affine = box_to_affine(box, SIZE, 1.25)
    x1, y1, x2, y2 = box
    corners = transform(np.array([[x1, y1], [x2, y2]], np.float32), affine)
    np.testing.assert_allclose(corners.mean(0), [(192 - 1) / 2, (256 - 1) / 2], atol=1e-2)
    width, height = corners[1] - corners[0]
    # the longer side, measured by the crop's aspect, fills the crop but for the padding
    share = max(width / 192, height / 256)
    assert share == pytest.approx(1 / 1.25, abs=1e-3) if x2 - x1 >= 1 else share == pytest.approx(0, abs=1e-3)
    assert affine[0, 0] == affine[1, 1] > 0 and affine[0, 1] == affine[1, 0] == 0


def test_the_crop_shows_what_the_affine_says() -> None:
    """The colour at a crop's pixel is the image's colour where the inverse affine leads."""
    affine = box_to_affine((150, 100, 300, 300), SIZE, 1.25)
    smooth = cv2.GaussianBlur(PORTRAIT, (0, 0), 4)
    pixels = np.random.default_rng(1).uniform(5, (187, 251), (200, 2)).round().astype(np.float32)
    x, y = transform(pixels, invert(affine)).T
    expected = cv2.remap(smooth, x, y, cv2.INTER_LINEAR).reshape(-1, 3)
    column, row = pixels.astype(int).T
    shown = crop(smooth, affine, SIZE)[row, column]
    assert np.abs(shown.astype(int) - expected).max() <= 2


def test_outside_the_image_is_black() -> None:
    white = np.full((100, 100, 3), 255, np.uint8)
    cropped = crop(white, box_to_affine((0, 0, 75, 100), SIZE, 1.25), SIZE)
    inside = transform(np.array([[0, 0], [99, 99]], np.float32), box_to_affine((0, 0, 75, 100), SIZE, 1.25))
    left, top = np.ceil(inside[0] + 1).astype(int)
    assert not cropped[: top - 3].any() and not cropped[:, : left - 3].any()
    assert cropped[top : top + 150, left : left + 140].min() == 255


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (100, 90), (320, 320), (1000, 3)])
def test_letterbox_keeps_the_aspect_at_the_top_left(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 255, np.uint8)
    canvas, scale = letterbox(image, (320, 320), 114)
    assert canvas.shape == (320, 320, 3) and scale == 320 / max(shape)
    height, width = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    assert (canvas[:height, :width] == 255).all()
    assert (canvas[height:] == 114).all() and (canvas[:, width:] == 114).all()


def test_the_letterbox_scale_leads_back_to_the_image() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    image[100:200, 300:450] = 255
    canvas, scale = letterbox(image, (320, 320), 114)
    rows, columns = np.nonzero(canvas[:213, :, 0] > 127)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / scale
    np.testing.assert_allclose(box, [300, 100, 450, 200], atol=1 / scale)


def test_suppression_keeps_the_best_of_each_heap() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [1, 0, 11, 10], [0, 0, 10, 20], [51, 50, 61, 60]])
    scores = np.array([0.5, 0.9, 0.8, 0.3, 0.4], np.float32)
    # intersection over union: 0 with 2: 90 / 110; 3 with 2: 90 / 210; 4 with 1: 90 / 110
    assert non_maximum_suppression(boxes.astype(np.float32), scores, 0.6).tolist() == [1, 2, 3]
    assert non_maximum_suppression(boxes.astype(np.float32), scores, 0.4).tolist() == [1, 2]
    assert non_maximum_suppression(boxes.astype(np.float32), scores, 0.9).tolist() == [1, 2, 0, 4, 3]
    assert non_maximum_suppression(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.6).shape == (0,)


def test_a_box_is_averaged_with_those_that_overlap_it() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 30], [50, 50, 60, 60]], np.float32)
    scores = np.array([0.9, 0.3, 0.8, 0.5], np.float32)
    averaged = average_boxes(boxes, scores, np.array([0, 3]), 0.6)  # the overlaps of 0: 10 / 12, 10 / 30
    np.testing.assert_allclose(averaged, [[0, 0, 10, 10.5], [50, 50, 60, 60]], rtol=1e-6)
    none = np.zeros(0, np.intp)
    assert average_boxes(boxes, scores, none, 0.6).shape == (0, 4)


def inner_points(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform((20, 20), (171, 235), (n, 2)).astype(np.float32)


def test_a_gaussian_has_its_peak_at_its_point() -> None:
    (heatmap,) = encode_heatmaps(np.array([[4 * 10 + 1.5, 4 * 20 + 1.5]], np.float32), SIZE, 4, 2.0)
    assert heatmap.shape == (64, 48)
    assert np.unravel_index(heatmap.argmax(), heatmap.shape) == (20, 10) and heatmap.max() == 1
    assert heatmap[20, 12] == pytest.approx(np.exp(-0.5)) and heatmap[22, 10] == pytest.approx(np.exp(-0.5))


def test_dark_finds_peaks_between_pixels() -> None:
    points = inner_points(200, 2)
    heatmaps = encode_heatmaps(points, SIZE, 4, 2.0)[None]
    refined, coarse = decode_heatmaps(heatmaps, 4)[0], decode_heatmaps(heatmaps, 4, dark=False)[0]
    assert np.abs(refined[:, :2] - points).max() < 0.05
    assert 1.5 < np.abs(coarse[:, :2] - points).max() <= 2.001
    np.testing.assert_array_equal(refined[:, 2], coarse[:, 2])
    assert refined[:, 2].min() > 0.9 and refined[:, 2].max() <= 1


def test_dark_holds_under_noise() -> None:
    points = inner_points(200, 3)
    noise = np.random.default_rng(4).normal(0, 0.01, (1, 200, 64, 48))
    noisy = encode_heatmaps(points, SIZE, 4, 2.0)[None] + noise.astype(np.float32)
    errors = [
        np.linalg.norm(decode_heatmaps(noisy, 4, dark=d)[0, :, :2] - points, axis=1) for d in (True, False)
    ]
    assert errors[0].mean() < 0.5 * errors[1].mean()


def test_peaks_at_the_border_stay_where_they_are() -> None:
    heatmaps = np.zeros((1, 3, 64, 48), np.float32)
    heatmaps[0, 0, 0, 0], heatmaps[0, 1, 63, 47], heatmaps[0, 2, 30, 2] = 0.7, 3.0, 0.2
    decoded = decode_heatmaps(heatmaps, 4)[0]
    np.testing.assert_allclose(decoded, [[1.5, 1.5, 0.7], [189.5, 253.5, 1], [9.5, 121.5, 0.2]], atol=1e-6)


def test_useless_heatmaps_give_finite_points_without_score() -> None:
    heatmaps = np.zeros((2, 2, 64, 48), np.float32)
    heatmaps[0, 1], heatmaps[1, 0], heatmaps[1, 1] = np.nan, -1, -np.inf
    decoded = decode_heatmaps(heatmaps, 4)
    assert np.isfinite(decoded).all() and not decoded[..., 2].any()
    assert (decoded[..., :2] >= 0).all() and (decoded[..., :2] <= (191, 255)).all()


def test_a_batch_is_decoded_as_its_parts_are() -> None:
    heatmaps = encode_heatmaps(inner_points(51, 5), SIZE, 4, 2.0).reshape(3, 17, 64, 48)
    alone = np.concatenate([decode_heatmaps(one[None], 4) for one in heatmaps])
    np.testing.assert_array_equal(decode_heatmaps(heatmaps, 4), alone)


def test_flips_of_crop_and_heatmap_commute() -> None:
    """Points mirrored in the crop have mirrored heatmaps, and mirrored heatmaps mirrored points."""
    points = inner_points(17, 6)
    mirrored = np.stack([192 - 1 - points[:, 0], points[:, 1]], 1)
    heatmaps = encode_heatmaps(points, SIZE, 4, 2.0)
    np.testing.assert_allclose(heatmaps[:, :, ::-1], encode_heatmaps(mirrored, SIZE, 4, 2.0), atol=1e-5)
    decoded = decode_heatmaps(heatmaps[None, :, :, ::-1], 4)[0]
    np.testing.assert_allclose(decoded[:, :2], mirrored, atol=0.05)


def test_the_mirror_image_swaps_left_and_right() -> None:
    assert [FLIP_INDEX[k] for k in FLIP_INDEX] == list(range(17)) and FLIP_INDEX[0] == 0
    for left, right in FLIP_PAIRS:
        assert NAMES[left].startswith("left_") and NAMES[right] == NAMES[left].replace("left", "right")
        assert (FLIP_INDEX[left], FLIP_INDEX[right]) == (right, left)
