"""Geometry shared by training and serving: boxes, crops, heatmaps. NumPy and OpenCV only.

Frames: image and crop pixels, x right, y down, integer = pixel centre. Where the pixels of a heatmap lie
in its crop is the network's `Alignment`; ours is CENTRES.
"""

from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


class Alignment(StrEnum):
    """How crop pixels are aligned with the box, and heatmap pixels with the crop.

    CENTRES: a pixel covers its share of the box and is at its centre, so heatmap pixel i of stride s is at
    crop pixel (i + 0.5) * s - 0.5, and flips of crop and heatmap commute.
    ORIGINS: the pixels are spaced the same way, but crop pixel W / 2 is on the middle of the box, and heatmap
    pixel i on crop pixel i * s (Xiao et al., ECCV 2018, and the networks after it; SimCC).
    CORNERS: the first and the last pixel are on the borders of the box, and those of the heatmap on those of
    the crop (UDP: Huang et al., CVPR 2020).
    """

    CENTRES = "centres"
    ORIGINS = "origins"
    CORNERS = "corners"

    def positions(self, index: Floats, count: int, stride: float) -> Floats:
        """Crop pixels (...) of heatmap pixels `index` (...) along an axis of `count` heatmap pixels."""
        step = np.float32(stride)
        if self is Alignment.CENTRES:
            return (index + np.float32(0.5)) * step - np.float32(0.5)
        if self is Alignment.ORIGINS:
            return index * step
        return index * np.float32((count * stride - 1) / max(count - 1, 1))


class Fit(StrEnum):
    """Where an image lies in a network's input: scaled, at the top left or in the middle; or stretched."""

    TOP_LEFT = "top_left"
    CENTRED = "centred"
    STRETCH = "stretch"


class Resize(StrEnum):
    """How an image is made smaller or larger: AREA averages pixels; the others sample them, as OpenCV's
    `resize` does in the preprocessing of most published networks."""

    AREA = "area"
    LINEAR = "linear"
    CUBIC = "cubic"


def box_to_affine(
    box: npt.ArrayLike, size: tuple[int, int], padding: float, alignment: Alignment = Alignment.CENTRES
) -> Floats:
    """Affine (2, 3), image -> crop, of a box grown to the crop's aspect and by `padding`.

    box: (4,) x1, y1, x2, y2 in image pixels; size: (height, width) of the crop.
    A box without area is grown to one pixel first.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    height, width = size
    box_width = max(x2 - x1, 1.0, (y2 - y1) * width / height)
    last = 1 if alignment is Alignment.CORNERS else 0
    scale_x = (width - last) / (box_width * padding)
    scale_y = (height - last) * width / height / (box_width * padding)
    middle = 0 if alignment is Alignment.ORIGINS else 1
    shift_x = (width - middle) / 2 - scale_x * (x1 + x2) / 2
    shift_y = (height - middle) / 2 - scale_y * (y1 + y2) / 2
    return np.array([[scale_x, 0, shift_x], [0, scale_y, shift_y]], np.float32)


def crop(image: Pixels, affine: Floats, size: tuple[int, int]) -> Pixels:
    """Crop (height, width, 3) of an image (H, W, 3); black where the crop leaves the image."""
    height, width = size
    return np.asarray(cv2.warpAffine(image, affine, (width, height)), np.uint8)


def invert(affine: Floats) -> Floats:
    """The inverse (2, 3) of an affine (2, 3)."""
    return np.asarray(cv2.invertAffineTransform(affine), np.float32)


def transform(points: Floats, affine: Floats) -> Floats:
    """Points (..., 2) through an affine (2, 3)."""
    return points @ affine[:, :2].T + affine[:, 2]


def letterbox(
    image: Pixels,
    size: tuple[int, int],
    fill: int,
    fit: Fit = Fit.TOP_LEFT,
    step: int = 0,
    resize: Resize = Resize.AREA,
) -> tuple[Pixels, Floats]:
    """Image (H, W, 3) on a canvas (height, width, 3), and the affine (2, 3) of edges, image -> canvas.

    size: (height, width) of the canvas; fill: grey level where the image is not. step: unless 0, the canvas
    ends at the first multiple of it, in pixels, that holds the scaled image. Resize.AREA enlarges linearly.
    """
    height, width = image.shape[:2]
    scales = np.array([size[1] / width, size[0] / height])  # x, y
    if fit is not Fit.STRETCH:
        scales[:] = scales.min()
    inner = max(1, round(width * scales[0])), max(1, round(height * scales[1]))
    if step:
        size = -(-inner[1] // step) * step, -(-inner[0] // step) * step
    if resize is Resize.AREA and scales.max() < 1:
        resized = _shrunk(image, inner)
    else:
        method = cv2.INTER_CUBIC if resize is Resize.CUBIC else cv2.INTER_LINEAR
        resized = np.asarray(cv2.resize(image, inner, interpolation=method), np.uint8)
    x, y = ((size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2) if fit is Fit.CENTRED else (0, 0)
    canvas = np.full((*size, 3), fill, np.uint8)
    canvas[y : y + inner[1], x : x + inner[0]] = resized
    return canvas, np.array([[scales[0], 0, x], [0, scales[1], y]], np.float32)


def _shrunk(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Image (H, W, 3) at a smaller size (width, height), each pixel nearly the average of its area.

    Halved while it is at least four times as large, then sampled at twice the size and halved. INTER_AREA at
    any other factor is 2 to 6 times as slow: 7 ms for a photo of 1920 x 1080, half of the detector's time.
    """
    width, height = size
    while image.shape[1] >= 4 * width and image.shape[0] >= 4 * height:
        image = _halved(image)
    return _halved(np.asarray(cv2.resize(image, (2 * width, 2 * height)), np.uint8))


def _halved(image: Pixels) -> Pixels:
    """Image (H, W, 3) at half its size, each pixel the average of four; without an odd last row or column."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union (N, M) of boxes a (N, 4) with b (M, 4), each x1, y1, x2, y2."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(0).prod(-1)
    union = box_areas(a)[:, None] + box_areas(b)[None] - common
    return np.asarray(common / np.where(union > 0, union, 1), np.float32)


def box_areas(boxes: Floats) -> Floats:
    """Square pixels (N,) of boxes (N, 4)."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1), np.float32)


def nms(boxes: Floats, scores: Floats, max_iou: float) -> npt.NDArray[np.intp]:
    """Indices kept by non-maximum suppression, sorted by descending score: no kept box overlaps a better one
    by more than `max_iou`.

    boxes: (N, 4) x1, y1, x2, y2; scores: (N,).
    """
    if not len(boxes):
        return np.zeros(0, np.intp)
    wh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    kept = cv2.dnn.NMSBoxes(wh.tolist(), scores.tolist(), 0.0, max_iou)
    return np.asarray(kept, np.intp).reshape(-1)


def average_boxes(boxes: Floats, scores: Floats, kept: npt.NDArray[np.intp], min_iou: float) -> Floats:
    """The kept boxes (M, 4), each the mean by score of the boxes that overlap it by at least `min_iou`.

    boxes: (N, 4) x1, y1, x2, y2; scores: (N,), those of kept boxes above 0; kept: (M,) indices.
    """
    weights = np.where(iou(boxes[kept], boxes) >= min_iou, scores, 0)
    weights[np.arange(len(kept)), kept] = scores[kept]
    return np.asarray(weights @ boxes / weights.sum(1, keepdims=True), np.float32)


def encode_heatmaps(points: Floats, size: tuple[int, int], stride: int, sigma: float) -> Floats:
    """Gaussian heatmaps (K, height / stride, width / stride), peak 1, of points (K, 2) in crop pixels.

    sigma is in heatmap pixels. A point outside the crop gives the tail of its Gaussian.
    """
    centre = (points + 0.5) / stride - 0.5
    ys = np.arange(size[0] // stride, dtype=np.float32)[None, :] - centre[:, 1:]
    xs = np.arange(size[1] // stride, dtype=np.float32)[None, :] - centre[:, :1]
    gauss_y, gauss_x = (np.exp(-(d**2) / (2 * sigma**2)) for d in (ys, xs))
    return np.asarray(gauss_y[:, :, None] * gauss_x[:, None, :], np.float32)


def decode_heatmaps(
    heatmaps: Floats, stride: float, alignment: Alignment = Alignment.CENTRES, *, dark: bool = True
) -> Floats:
    """Keypoints (N, K, 3) as x, y in crop pixels and score in [0, 1], of heatmaps (N, K, h, w).

    The peak is refined by a second-order Taylor step on the log of the smoothed heatmap
    (DARK: Zhang et al., CVPR 2020, eq. 9) where the peak is not at the border, else not at all.
    """
    n, k, h, w = heatmaps.shape
    if not np.isfinite(heatmaps).all():  # the check takes a fiftieth of the time
        heatmaps = np.nan_to_num(heatmaps, nan=0.0, posinf=0.0, neginf=0.0)
    flat = heatmaps.reshape(n * k, h, w)
    index = flat.reshape(n * k, h * w).argmax(1)
    y, x = np.divmod(index, w)
    score = flat.reshape(n * k, h * w)[np.arange(n * k), index]
    peak = np.stack([x, y], 1).astype(np.float32)
    if dark:
        peak += _taylor_step(flat, x, y)
    xs, ys = (alignment.positions(peak[:, axis], (w, h)[axis], stride) for axis in (0, 1))
    return np.stack([xs, ys, score.clip(0, 1)], 1).reshape(n, k, 3).astype(np.float32)


def decode_simcc(x: Floats, y: Floats, stride: float, alignment: Alignment = Alignment.ORIGINS) -> Floats:
    """Keypoints (N, K, 3) as x, y in crop pixels and score in [0, 1], of both coordinates as classes.

    x: (N, K, bins) of the columns; y: (N, K, bins) of the rows; stride: crop pixels a bin. The score is the
    lower of the two maxima. Source: SimCC, Li et al., ECCV 2022.
    """
    axes = [np.nan_to_num(each, nan=0.0, posinf=0.0, neginf=0.0) for each in (x, y)]
    places = [alignment.positions(each.argmax(2).astype(np.float32), each.shape[2], stride) for each in axes]
    score = np.minimum(*(each.max(2) for each in axes)).clip(0, 1)
    return np.stack([*places, score], 2).astype(np.float32)


def _smoothing(order: int) -> Floats:
    """Matrix (5, order + 5): 5 values smoothed by a binomial filter, whose variance is order / 4."""
    taps = (np.poly1d([0.5, 0.5]) ** order).coeffs
    return np.stack([np.convolve(row, taps) for row in np.eye(5)]).astype(np.float32)


_SMOOTHING = _smoothing(8)  # AP on photos kept apart is highest and flat from 8 to 12


def _taylor_step(maps: Floats, x: npt.NDArray[np.intp], y: npt.NDArray[np.intp]) -> Floats:
    """Sub-pixel step (M, 2) from the peaks (x, y) of maps (M, h, w); zero near the border."""
    m, h, w = maps.shape
    step = np.zeros((m, 2), np.float32)
    inside = np.flatnonzero((x > 2) & (x < w - 3) & (y > 2) & (y < h - 3))
    if not len(inside):
        return step
    reach = np.arange(_SMOOTHING.shape[1]) - _SMOOTHING.shape[1] // 2
    window = maps[
        inside[:, None, None],
        (y[inside, None] + reach).clip(0, h - 1)[:, :, None],
        (x[inside, None] + reach).clip(0, w - 1)[:, None, :],
    ]
    p = np.log(np.maximum(_SMOOTHING @ window @ _SMOOTHING.T, 1e-6))
    c = 2  # the index of the peak in the 5 x 5 pixels round it
    dx, dy = (p[:, c, c + 1] - p[:, c, c - 1]) / 2, (p[:, c + 1, c] - p[:, c - 1, c]) / 2
    dxx = (p[:, c, c + 2] - 2 * p[:, c, c] + p[:, c, c - 2]) / 4
    dyy = (p[:, c + 2, c] - 2 * p[:, c, c] + p[:, c - 2, c]) / 4
    dxy = (p[:, c + 1, c + 1] - p[:, c - 1, c + 1] - p[:, c + 1, c - 1] + p[:, c - 1, c - 1]) / 4
    determinant = dxx * dyy - dxy**2
    safe = np.abs(determinant) > 1e-9
    inverse = np.where(safe, 1 / np.where(safe, determinant, 1), 0)
    taylor = np.stack([-(dyy * dx - dxy * dy), -(dxx * dy - dxy * dx)], 1) * inverse[:, None]
    small = (np.abs(taylor) < 1.5).all(1)
    step[inside[small]] = taylor[small]
    return step
