"""Losses of the two networks."""

import torch
from torch import Tensor
from torch.nn import functional as F


def heatmap_loss(heatmaps: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error between heatmaps and target (n, K, h, w), times 1000.

    weights: (n, K) weight of each joint. Returns a scalar.
    """
    error = (heatmaps - target).square().mean((2, 3))
    return 1000 * (error * weights).sum() / weights.sum().clamp(min=1)


def distillation_loss(
    boxes: Tensor, logits: Tensor, teacher_boxes: Tensor, teacher_scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Score loss and box loss of a student detector against a dense teacher, per unit of teacher score.

    boxes, teacher_boxes: (n, A, 4) x1, y1, x2, y2 in input pixels; logits, teacher_scores: (n, A). The score
    loss is the quality focal loss (Li et al., NeurIPS 2020, eq. 4, beta 2). The box loss is GIoU (Rezatofighi
    et al., CVPR 2019) where the teacher's score is above 0.1. Returns two scalars.
    """
    total = teacher_scores.sum().clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(logits, teacher_scores, reduction="none")
    quality = (logits.sigmoid() - teacher_scores).square()
    weights = torch.where(teacher_scores > 0.1, teacher_scores, 0)
    generalised = giou(boxes, teacher_boxes)
    return (quality * entropy).sum() / total, (weights * (1 - generalised)).sum() / weights.sum().clamp(min=1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (...), in [-1, 1], of boxes (..., 4) x1, y1, x2, y2 in the same frame."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = _area(a) + _area(b) - intersection
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return intersection / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
