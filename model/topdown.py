"""The top-down pipeline on arrays: a detector finds boxes, a pose network the keypoints in each box.

The service and the evaluation run this code, whatever network is behind it. NumPy and OpenCV only.
Images are uint8 (H, W, 3) BGR; boxes are x1, y1, x2, y2 in pixels of the image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import (
    Floats,
    Pixels,
    average_boxes,
    box_areas,
    box_to_affine,
    crop,
    decode_heatmaps,
    decode_simcc,
    invert,
    letterbox,
    nms,
    transform,
)
from model.keypoints import COCO, Skeleton, distinct

#: Images (N, H, W, 3) of the network's input size -> its outputs, each float32 (N, ...): see model.artefact.
Network = Callable[[Pixels], tuple[Floats, ...]]
#: Boxes (N, 4) and scores (N,) in [0, 1] of one image, sorted by descending score.
Detections = tuple[Floats, Floats]

MIN_BOX_SCORE = 0.05  # boxes below are noise, whatever a caller asks for
MAX_IOU = 0.5  # each box that is left costs a run of the pose network
MAX_CANDIDATES = 1000
MAX_BOXES = 300
CROPS_PER_RUN = 32


def detector_input(image: Pixels, metadata: DetectorMetadata) -> tuple[Pixels, Floats]:
    """What a detector sees of an image, uint8 (H, W, 3), and the affine (2, 3) of edges, image -> input."""
    data = metadata
    return letterbox(image, data.input_size, data.letterbox_fill, data.fit, data.input_step, data.resize)


def pose_input(image: Pixels, box: Floats, metadata: PoseMetadata) -> tuple[Pixels, Floats]:
    """What a pose network sees of the person in a box (4,), uint8 (H, W, 3), and the affine (2, 3), image ->
    input."""
    affine = box_to_affine(box, metadata.input_size, metadata.crop_padding, metadata.alignment)
    return crop(image, affine, metadata.input_size), affine


def select_persons(
    boxes: Floats,
    keypoints: Floats,
    scores: npt.NDArray[np.floating],
    min_score: float,
    skeleton: Skeleton = COCO,
) -> npt.NDArray[np.intp]:
    """Indices of the boxes (N, 4) returned as persons, sorted by descending score (N,): of the boxes that
    score at least min_score, each that has no keypoints (N, K, 3) of the same person as a better one."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= min_score]
    return np.asarray(order[distinct(keypoints[order], box_areas(boxes[order]), skeleton)])


@dataclass(frozen=True)
class Detector:
    """Person boxes from a detector network. min_score: of the boxes that it gives."""

    network: Network
    metadata: DetectorMetadata
    min_score: float = MIN_BOX_SCORE

    def detect(self, images: Sequence[Pixels]) -> list[Detections]:
        """The persons of each image, after non-maximum suppression: boxes (N, 4) and scores (N,), at least
        min_score and sorted by descending score."""
        of_image = [detector_input(image, self.metadata) for image in images]
        outputs = self._run([canvas for canvas, _ in of_image])
        return [
            self._select(image.shape[:2], boxes, scores, affine)
            for image, (_, affine), (boxes, scores) in zip(images, of_image, outputs, strict=True)
        ]

    def _run(self, canvases: Sequence[Pixels]) -> list[tuple[Floats, Floats]]:
        """Boxes (A, 4) and scores (A,) of each canvas."""
        if self.metadata.input_step:  # they differ in size, and on processors a batch saves nothing
            each = [self.network(canvas[None]) for canvas in canvases]
            return [(boxes[0], scores[0]) for boxes, scores in each]
        boxes, scores = self.network(np.stack(canvases))
        return list(zip(boxes, scores, strict=True))

    def _select(self, size: tuple[int, ...], boxes: Floats, scores: Floats, affine: Floats) -> Detections:
        """The persons among boxes (A, 4) in pixels of the network's input, with scores (A,).

        size: (height, width) of the image; affine: image -> input.
        """
        order = np.flatnonzero(np.isfinite(boxes).all(1) & (scores >= self.min_score))
        order = order[np.argsort(-scores[order], kind="stable")][:MAX_CANDIDATES]
        height, width = size
        corners = transform(boxes[order].reshape(-1, 2, 2), invert(affine)).reshape(-1, 4)
        borders = np.array((width, height, width, height), np.float32)
        inside = corners.clip(0, borders).astype(np.float32)
        solid = (inside[:, 2:] > inside[:, :2]).all(1)
        inside, scores = inside[solid], scores[order][solid].clip(0, 1)
        kept = nms(inside, scores, MAX_IOU)[:MAX_BOXES]
        if self.metadata.average_iou:
            averaged = average_boxes(inside, scores, kept, self.metadata.average_iou)
            return averaged.clip(0, borders), scores[kept]  # a mean of borders is rounded, also outwards
        return inside[kept], scores[kept]


@dataclass(frozen=True)
class PoseEstimator:
    """Keypoints from a pose network. dark: peaks of heatmaps are found between their pixels."""

    network: Network
    metadata: PoseMetadata
    dark: bool = True

    def estimate(self, images: Sequence[Pixels], boxes: Sequence[Floats]) -> list[Floats]:
        """Keypoints (N, K, 3) as x, y in pixels of the image and score in [0, 1], of the boxes (N, 4) of each
        image. The crops of all images run together."""
        of_image = [
            [pose_input(image, box, self.metadata) for box in each]
            for image, each in zip(images, boxes, strict=True)
        ]
        found = self._keypoints([crop for each in of_image for crop, _ in each])
        return [self._placed(found, [affine for _, affine in each]) for each in of_image]

    def _placed(self, found: Iterator[Floats], affines: Sequence[Floats]) -> Floats:
        """The next keypoints, one person (K, 3) for each crop, moved into the image: (N, K, 3)."""
        persons = np.zeros((len(affines), len(self.metadata.skeleton.names), 3), np.float32)
        for person, affine in zip(persons, affines, strict=True):
            keypoints = next(found)
            person[:, :2] = transform(keypoints[:, :2], invert(affine))
            person[:, 2] = keypoints[:, 2]
        return persons

    def _keypoints(self, crops: Sequence[Pixels]) -> Iterator[Floats]:
        """Keypoints (K, 3) of each crop, in its pixels."""
        for start in range(0, len(crops), CROPS_PER_RUN):
            yield from self._decode(self.network(np.stack(crops[start : start + CROPS_PER_RUN])))

    def _decode(self, outputs: tuple[Floats, ...]) -> Floats:
        """Keypoints (N, K, 3) in pixels of the crops: here alone is chosen what the outputs are."""
        stride, alignment = self.metadata.heatmap_stride, self.metadata.alignment
        if len(outputs) == 2:
            return decode_simcc(*outputs, stride, alignment)
        return decode_heatmaps(outputs[0], stride, alignment, dark=self.dark)
