"""Where the persons of an image are."""

from collections.abc import Sequence

import numpy as np

from model.geometry import average_boxes, letterbox, non_maximum_suppression
from service.inference.runtime import Session, input_size
from service.types import Boxes, Floats, Frame

_MIN_SCORE = 0.05  # below it lies noise, whatever a caller asks for
_MAX_CANDIDATES = 1000
_NMS_IOU = 0.5  # each box that is left costs a run of the pose network
_SAME_IOU = 0.6  # candidates that overlap a box so much are taken for the same, and averaged


class Detector:
    """Person boxes from the detector network."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._size = input_size(session)
        self._fill = int(session.metadata["letterbox_fill"])
        self._margin = float(session.metadata.get("box_margin", 1))

    def detect(self, frames: Sequence[Frame]) -> list[Boxes]:
        """The boxes of each frame that its options ask for; those that it brings stay as they are."""
        unseen = [frame for frame in frames if frame.boxes is None]
        found = iter(self._detect(unseen) if unseen else [])
        return [next(found) if frame.boxes is None else frame.boxes for frame in frames]

    def _detect(self, frames: Sequence[Frame]) -> list[Boxes]:
        canvases, scales = zip(*(letterbox(f.image, self._size, self._fill) for f in frames), strict=True)
        boxes, scores = self._session.run(np.stack(canvases))
        return [_select(*each, self._margin) for each in zip(frames, boxes, scores, scales, strict=True)]


def _select(frame: Frame, boxes: Floats, scores: Floats, scale: float, margin: float) -> Boxes:
    """From the network's boxes (A, 4) in pixels of its input and scores (A,) to persons of the frame.

    margin: how much higher a box must score than a person must, whose score is lower by the keypoints'.
    """
    good = np.isfinite(boxes).all(1) & (scores >= _MIN_SCORE)
    order = np.flatnonzero(good)
    order = order[np.argsort(-scores[order], kind="stable")][:_MAX_CANDIDATES]
    height, width = frame.image.shape[:2]
    inside = (boxes[order] / scale).clip(0, (width, height, width, height)).astype(np.float32)
    solid = (inside[:, 2:] > inside[:, :2]).all(1)
    inside, scores = inside[solid], scores[order][solid].clip(0, 1)
    kept = non_maximum_suppression(inside, scores, _NMS_IOU)
    kept = kept[scores[kept] >= margin * frame.options.min_score][: frame.options.max_persons]
    return Boxes(average_boxes(inside, scores, kept, _SAME_IOU), scores[kept])
