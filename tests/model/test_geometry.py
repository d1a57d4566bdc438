import cv2
import numpy as np
import pytest

from model.geometry import (
    Alignment,
    Fit,
    Resize,
    average_boxes,
    box_to_affine,
    crop,
    decode_heatmaps,
    decode_simcc,
    encode_heatmaps,
    invert,
    iou,
    letterbox,
    nms,
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


def test_the_crop_matches_its_affine() -> None:
    """The colour of a crop pixel is the image's colour at the inverse of the affine."""
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
    canvas, affine = letterbox(image, (320, 320), 114)
    scale = 320 / max(shape)
    np.testing.assert_allclose(affine, [[scale, 0, 0], [0, scale, 0]], rtol=1e-6)
    assert canvas.shape == (320, 320, 3)
    height, width = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    assert (canvas[:height, :width] == 255).all()
    assert (canvas[height:] == 114).all() and (canvas[:, width:] == 114).all()


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("shape", [(400, 600), (600, 470), (200, 190)])
def test_the_letterbox_affine_leads_back_to_the_image(fit: Fit, shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[100:170, 60:150] = 255
    canvas, affine = letterbox(image, (320, 288), 50, fit)
    assert canvas.shape == (320, 288, 3)
    rows, columns = np.nonzero(canvas[:, :, 0] > 127)
    corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], np.float32)
    back = transform(corners, invert(affine))
    np.testing.assert_allclose(back, [[60, 100], [150, 170]], atol=1.01 / affine[[0, 1], [0, 1]].min())


def test_an_image_lies_at_the_top_left_in_the_middle_or_everywhere() -> None:
    image = np.zeros((200, 400, 3), np.uint8)
    filled = {fit: letterbox(image, (320, 320), 50, fit)[0][:, 0, 0] == 50 for fit in Fit}
    assert np.flatnonzero(~filled[Fit.TOP_LEFT]).tolist() == list(range(160))
    assert np.flatnonzero(~filled[Fit.CENTRED]).tolist() == list(range(80, 240))
    assert not filled[Fit.STRETCH].any()


@pytest.mark.parametrize("fit", Fit)
@pytest.mark.parametrize("shape", [(400, 600), (600, 250), (1, 900)])
def test_a_canvas_ends_at_the_step_after_the_image(shape: tuple[int, int], fit: Fit) -> None:
    image = np.full((*shape, 3), 255, np.uint8)
    whole, _ = letterbox(image, (320, 320), 50, fit)
    canvas, _ = letterbox(image, (320, 320), 50, fit, step=32)
    assert not canvas.shape[0] % 32 and not canvas.shape[1] % 32
    filled = [
        np.count_nonzero((each[..., 0] != 50).any(1 - axis)) for axis in (0, 1) for each in (whole, canvas)
    ]
    assert filled[0] == filled[1] and filled[2] == filled[3]  # the image itself is as large as before
    assert 0 <= canvas.shape[0] - filled[0] < 32 and 0 <= canvas.shape[1] - filled[2] < 32


@pytest.mark.parametrize(
    "shape", [(400, 500), (500, 660), (901, 1001), (1440, 2560), (2000, 3000), (2001, 3001)]
)
def test_a_shrunk_image_is_averaged_not_sampled(shape: tuple[int, int]) -> None:
    """Stripes of two pixels and noise would show as patterns where pixels are left out."""
    image = np.random.default_rng(0).integers(0, 100, (*shape, 3), np.uint8)
    image[:, ::4] += 100
    image[:, 1::4] += 100
    image[: shape[0] // 2] //= 2
    size = (320, round(320 / shape[1] * shape[0]))
    canvas, _ = letterbox(image, (320, 320), 114, step=32)
    expected = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(int)
    found, sampled = (np.abs(each - expected).mean() for each in (canvas[: size[1]], cv2.resize(image, size)))
    assert found < sampled / 3


def test_an_image_is_scaled_as_the_network_expects() -> None:
    image = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    for resize, method in {Resize.LINEAR: cv2.INTER_LINEAR, Resize.CUBIC: cv2.INTER_CUBIC}.items():
        canvas, _ = letterbox(image, (320, 320), 114, Fit.STRETCH, resize=resize)
        assert np.array_equal(canvas, cv2.resize(image, (320, 320), interpolation=method))
    canvas, _ = letterbox(image, (450, 450), 114, Fit.STRETCH, resize=Resize.AREA)
    assert np.array_equal(canvas, cv2.resize(image, (450, 450), interpolation=cv2.INTER_AREA))


def test_nms_keeps_the_best_box_of_each_group() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [1, 0, 11, 10], [0, 0, 10, 20], [51, 50, 61, 60]])
    scores = np.array([0.5, 0.9, 0.8, 0.3, 0.4], np.float32)
    # intersection over union: 0 with 2: 90 / 110; 3 with 2: 90 / 210; 4 with 1: 90 / 110
    assert nms(boxes.astype(np.float32), scores, 0.6).tolist() == [1, 2, 3]
    assert nms(boxes.astype(np.float32), scores, 0.4).tolist() == [1, 2]
    assert nms(boxes.astype(np.float32), scores, 0.9).tolist() == [1, 2, 0, 4, 3]
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.6).shape == (0,)


@pytest.mark.parametrize("alignment", Alignment)
def test_each_alignment_places_the_crop_in_its_box(alignment: Alignment) -> None:
    """The published definitions: which crop pixels are on the borders of the box."""
    affine = box_to_affine((100, 50, 196, 178), SIZE, 1.0, alignment)  # the aspect of the crop: 96 x 128
    corners = transform(np.array([[100, 50], [196, 178]], np.float32), affine)
    expected = {
        Alignment.CENTRES: [[-0.5, -0.5], [191.5, 255.5]],
        Alignment.ORIGINS: [[0, 0], [192, 256]],
        Alignment.CORNERS: [[0, 0], [191, 255]],
    }
    np.testing.assert_allclose(corners, expected[alignment], atol=1e-3)


@pytest.mark.parametrize("alignment", Alignment)
def test_each_alignment_places_the_heatmap_in_the_crop(alignment: Alignment) -> None:
    heatmaps = np.zeros((1, 2, 64, 48), np.float32)
    heatmaps[0, 0, 0, 0], heatmaps[0, 1, 63, 47] = 1, 1
    expected = {
        Alignment.CENTRES: [[1.5, 1.5], [189.5, 253.5]],
        Alignment.ORIGINS: [[0, 0], [188, 252]],
        Alignment.CORNERS: [[0, 0], [191, 255]],
    }
    np.testing.assert_allclose(
        decode_heatmaps(heatmaps, 4, alignment)[0, :, :2], expected[alignment], rtol=1e-6
    )


def test_classes_of_the_coordinates_are_decoded() -> None:
    x, y = np.zeros((1, 3, 384), np.float32), np.zeros((1, 3, 512), np.float32)
    x[0, :, [11, 200, 383]] = np.eye(3) * 0.9
    y[0, :, [0, 301, 511]] = np.eye(3) * 1.2
    x[0, 2], y[0, 2] = np.nan, -1
    (found,) = decode_simcc(x, y, 0.5)
    np.testing.assert_allclose(found, [[5.5, 0, 0.9], [100, 150.5, 0.9], [0, 0, 0]], rtol=1e-6)


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


@pytest.mark.parametrize(("noise", "error"), [(0.01, 0.06), (0.05, 0.3)])  # 0.08 and 0.42 with a 3 x 3 blur
def test_dark_holds_under_noise(noise: float, error: float) -> None:
    points = inner_points(200, 3)
    added = np.random.default_rng(4).normal(0, noise, (1, 200, 64, 48))
    noisy = encode_heatmaps(points, SIZE, 4, 2.0)[None] + added.astype(np.float32)
    errors = [
        np.linalg.norm(decode_heatmaps(noisy, 4, dark=d)[0, :, :2] - points, axis=1) for d in (True, False)
    ]
    assert errors[0].mean() < min(error, 0.5 * errors[1].mean())


def test_peaks_at_the_border_stay_where_they_are() -> None:
    heatmaps = np.zeros((1, 3, 64, 48), np.float32)
    heatmaps[0, 0, 0, 0], heatmaps[0, 1, 63, 47], heatmaps[0, 2, 30, 2] = 0.7, 3.0, 0.2
    decoded = decode_heatmaps(heatmaps, 4)[0]
    np.testing.assert_allclose(decoded, [[1.5, 1.5, 0.7], [189.5, 253.5, 1], [9.5, 121.5, 0.2]], atol=1e-6)


def test_flat_heatmaps_give_finite_points_with_score_zero() -> None:
    heatmaps = np.zeros((2, 2, 64, 48), np.float32)
    heatmaps[0, 1], heatmaps[1, 0], heatmaps[1, 1] = np.nan, -1, -np.inf
    decoded = decode_heatmaps(heatmaps, 4)
    assert np.isfinite(decoded).all() and not decoded[..., 2].any()
    assert (decoded[..., :2] >= 0).all() and (decoded[..., :2] <= (191, 255)).all()


def test_a_batch_is_decoded_like_its_items() -> None:
    heatmaps = encode_heatmaps(inner_points(51, 5), SIZE, 4, 2.0).reshape(3, 17, 64, 48)
    alone = np.concatenate([decode_heatmaps(one[None], 4) for one in heatmaps])
    np.testing.assert_array_equal(decode_heatmaps(heatmaps, 4), alone)


def test_flips_of_crop_and_heatmap_commute() -> None:
    """Mirrored points have mirrored heatmaps and the reverse."""
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


def test_iou() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0], [0, 0, 0]], rtol=1e-6)
