"""The published layouts of detectors, decoded to boxes (N, A, 4) in pixels of the input and scores (N, A).

Detectors of several classes keep the person: class 0 as in COCO's order, unless the file names its classes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.adopt.arrays import (
    Array,
    as_floats,
    concat,
    exp,
    first_rows,
    is_zero,
    matmul,
    part,
    reshape,
    sigmoid,
    softmax,
    transpose,
)
from model.adopt.family import IMAGENET, IMAGENET_BGR, Decode, Example, Family, Preprocessing
from model.geometry import Fit, Floats, Resize

_STRIDES = 8, 16, 32
_LIKELY_CLASSES = 1, 80
_END_TO_END = ["dets", "labels"]
_MAX_ROWS = 300  # of a network that suppresses by itself: a number that varies cannot be batched


def grid(size: tuple[int, int], strides: Sequence[int], offset: float) -> tuple[Floats, Floats]:
    """Points (A, 2) x, y of the cells of all levels, `offset` cells from their corner, and strides (A, 1)."""
    points, steps = [], []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        points.append((np.stack([x, y], 1) + offset) * stride)
        steps.append(np.full((rows * columns, 1), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(steps).astype(np.float32)


def _cells(size: tuple[int, int], strides: Sequence[int]) -> int:
    return len(grid(size, strides, 0)[0])


def _column(x: Array, index: int) -> Array:
    """Entry `index` of the last axis of x (N, A, D): (N, A)."""
    return reshape(part(x, 2, index, index + 1), (0, -1))


def _from_distances(points: Floats, distances: Array) -> Array:
    """Boxes (N, A, 4) from distances (N, A, 4) of points (A, 2) to the left, top, right and bottom side."""
    return concat([points - part(distances, 2, 0, 2), points + part(distances, 2, 2, 4)], 2)


def _from_centres(boxes: Array) -> Array:
    """Boxes (N, A, 4) from x, y of their centre, width and height."""
    centre, half = part(boxes, 2, 0, 2), part(boxes, 2, 2, 4) * 0.5
    return concat([centre - half, centre + half], 2)


def _expected(bins: Array, count: int) -> Array:
    """Means (N, A, 4) of four distributions over 0 to count - 1 (N, A, 4 * count): Li et al., GFL, 2020."""
    shares = softmax(reshape(bins, (0, -1, 4, count)))
    return reshape(matmul(shares, np.arange(count, dtype=np.float32)[:, None]), (0, -1, 4))


def _rtmdet(example: Example) -> Decode | None:
    """Maps (N, h, w, C + 4) of scores and distances in pixels, or (N, C, h, w) and (N, 4, h, w) as the head
    gives them; the points are the corners of the cells. Or as MMDeploy exports it, see _end_to_end."""
    if sorted(example.names) == _END_TO_END:
        return _end_to_end(example)
    maps = [shape for shape in example.shapes if len(shape) == 4]
    levels = [(-(-example.size[0] // s), -(-example.size[1] // s)) for s in _STRIDES]
    if len(maps) != len(example.shapes):
        return None
    if [shape[1:3] for shape in maps] == levels and maps[0][3] > 4:
        apart = False
    elif [shape[2:] for shape in maps] == levels * 2 and {shape[1] for shape in maps[3:]} == {4}:
        apart = True
    else:
        return None
    points, _ = grid(example.size, _STRIDES, 0)
    depth = maps[0][3] if not apart else maps[0][1] + 4

    def joined(outputs: Sequence[Array]) -> Array:
        """(N, A, C + 4)"""
        if not apart:
            return concat([reshape(each, (0, -1, depth)) for each in outputs], 1)
        rows = [
            transpose(reshape(each, (0, shape[1], -1)), (0, 2, 1))
            for each, shape in zip(outputs, maps, strict=True)
        ]
        return concat([concat(rows[:3], 1), concat(rows[3:], 1)], 2)

    values = joined(example.outputs)[0, :, : depth - 4]
    are_logits = bool(values.min() < 0 or values.max() > 1)

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        table = joined([as_floats(each) for each in outputs])
        scores = _column(table, 0)
        boxes = _from_distances(points, part(table, 2, depth - 4, depth))
        return boxes, sigmoid(scores) if are_logits else scores

    return decode


def _end_to_end(example: Example) -> Decode:
    """MMDeploy's `dets` (N, A, 5) of box and score after non-maximum suppression, and `labels` (N, A)."""
    dets, labels = (example.names.index(name) for name in ("dets", "labels"))

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        of_persons = reshape(is_zero(outputs[labels]), (0, -1, 1))
        table = first_rows(concat([as_floats(outputs[dets]), of_persons], 2), _MAX_ROWS)
        return part(table, 2, 0, 4), _column(table, 4) * _column(table, 5)

    return decode


def _yolox(example: Example) -> Decode | None:
    """(N, A, 5 + C) of centre, size, objectness and class scores; in cells and logarithms unless decoded. Or
    as MMDeploy exports it, see _end_to_end."""
    if sorted(example.names) == _END_TO_END:
        return _end_to_end(example)
    match example.shapes:
        case [(1, cells, depth)] if cells == _cells(example.size, _STRIDES) and depth - 5 in _LIKELY_CLASSES:
            pass
        case _:
            return None
    points, strides = grid(example.size, _STRIDES, 0)
    # decoded centres are in pixels, near the points; raw ones are a few cells at most
    is_raw = float(np.abs(example.outputs[0][0, :, :2]).mean()) < float(points.mean()) / 4

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        table = as_floats(outputs[0])
        boxes = part(table, 2, 0, 4)
        if is_raw:
            centres = part(table, 2, 0, 2) * strides + points
            boxes = concat([centres, exp(part(table, 2, 2, 4)) * strides], 2)
        return _from_centres(boxes), _column(table, 4) * _column(table, 5)

    return decode


def _picodet(example: Example) -> Decode | None:
    """As PaddleDetection exports it: four maps of scores and four of distributions without postprocessing;
    boxes (N, A, 4) and scores (N, C, A) with it; rows (M, 6) of class, score and box after suppression."""
    strides = (8, 16, 32, 64)
    levels = [_cells(example.size, [stride]) for stride in strides]
    match example.shapes:
        case [*maps] if [shape[1] for shape in maps if len(shape) == 3] == levels * 2:
            return _distributions(example, strides, maps[-1][2] // 4)
        case [(1, boxes, 4), (1, _, scores)] if boxes == scores:
            return lambda outputs: (
                as_floats(outputs[0]),
                reshape(part(as_floats(outputs[1]), 1, 0, 1), (0, -1)),
            )
        case [(_, 6), *counts] if len(counts) <= 1:
            return _rows
    return None


def _distributions(example: Example, strides: Sequence[int], bins: int) -> Decode:
    points, steps = grid(example.size, strides, 0.5)

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        scores, sides = (concat([as_floats(x) for x in half], 1) for half in (outputs[:4], outputs[4:]))
        return _from_distances(points, _expected(sides, bins) * steps), _column(scores, 0)

    return decode


def _rows(outputs: Sequence[Array]) -> tuple[Array, ...]:
    table = first_rows(reshape(as_floats(outputs[0]), (1, -1, 6)), _MAX_ROWS)
    return part(table, 2, 2, 6), _column(table, 1) * is_zero(_column(table, 0))


def _nanodet(example: Example) -> Decode | None:
    """(N, A, C + 4 (r + 1)) of class scores and distributions; the points are the middles of the cells on
    three levels, and their corners on the four of NanoDet-Plus."""
    bins = 8
    match example.shapes:
        case [(1, cells, depth)] if depth - 4 * bins in _LIKELY_CLASSES:
            pass
        case _:
            return None
    versions: dict[int, tuple[tuple[int, ...], float]] = {
        _cells(example.size, strides): (strides, offset)
        for strides, offset in ((_STRIDES, 0.5), ((*_STRIDES, 64), 0.0))
    }
    if cells not in versions:
        return None
    points, steps = grid(example.size, *versions[cells])

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        table = as_floats(outputs[0])
        sides = _expected(part(table, 2, depth - 4 * bins, depth), bins)
        return _from_distances(points, sides * steps), _column(table, 0)

    return decode


def _yolov8(example: Example) -> Decode | None:
    """(N, 4 + C, A) of centre, size and class scores, in pixels."""
    match example.shapes:
        case [(1, depth, cells)] if depth > 4 and cells == _cells(example.size, _STRIDES):
            pass
        case _:
            return None

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        table = transpose(as_floats(outputs[0]), (0, 2, 1))
        return _from_centres(table), _column(table, 4 + example.person)

    return decode


_PLAIN = Preprocessing(rgb=False, mean=(0, 0, 0), std=(1, 1, 1))
_STRETCHED = replace(IMAGENET, fit=Fit.STRETCH, resize=Resize.CUBIC)
_STRETCHED_BGR = replace(IMAGENET_BGR, fit=Fit.STRETCH)
_SHARES = Preprocessing(rgb=True, mean=(0, 0, 0), std=(255, 255, 255), fit=Fit.CENTRED)

DETECTORS = (
    Family("rtmdet", "detector", "RTMDet, OpenMMLab", IMAGENET_BGR, _rtmdet, ("rtmdet", ".rtm_cls.")),
    Family("yolox", "detector", "YOLOX, Megvii", _PLAIN, _yolox, ("yolox", ".multi_level_conv_cls.")),
    Family("picodet", "detector", "PicoDet, PaddleDetection", _STRETCHED, _picodet),
    Family("nanodet", "detector", "NanoDet, RangiLyu", _STRETCHED_BGR, _nanodet, ("nanodet",)),
    Family("yolov8", "detector", "YOLOv8 and YOLO11, Ultralytics", _SHARES, _yolov8),
)
