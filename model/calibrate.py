"""Fits a detector to its exported size: `python -m model.calibrate runs/detector/detector.safetensors`.

First it measures the statistics of BatchNorm again, on training photos of that size, because persons are
larger there than they were in training (Touvron et al., arXiv 1906.06423, section 4). Then it calibrates the
scores. Afterwards a score is the probability that the box overlaps the human box of a person by half,
measured on training photos that are kept apart. The logits are scaled and shifted, so the order of boxes does
not change; both numbers are stored next to the weights, and further training does not see them.
The score of a person is the score of its box times that of its keypoints, which is below 1. So the margin is
stored too: the service estimates no keypoints in a box that scores less than the margin times the lowest
score that its caller asks for. At this margin the F1 of the persons of the default answer is best.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from model import detector
from model.detector_dataset import SOURCE_WEIGHT
from model.evaluate import MIN_BOX_SCORE, SERVED_SCORE, WEIGHTS, detect, estimate, served
from model.geometry import Floats, iou, letterbox
from model.metrics import Scored
from model.pose_dataset import read_data
from model.predictors import PosePredictor, load_pose, torch_detector
from model.samples import PersonAnnotation, Sample, kept_apart

#: IoU with a person's box from which a box has found that person.
FOUND_IOU = 0.5
#: The margins to choose from.
MARGINS = tuple(n / 10 for n in range(10, 26))
#: Photos for the statistics of BatchNorm, and how many run at once.
PHOTOS, BATCH = 960, 32

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """scale, shift: of the logits; f1, threshold: the best F1 of boxes, and its probability threshold."""

    scale: float
    shift: float
    f1: float
    threshold: float

    def chance(self, scores: Floats) -> Floats:
        """Probabilities (N,) of scores (N,) before calibration."""
        clipped = scores.astype(np.float64).clip(1e-6, 1 - 1e-6)
        logits = np.log(clipped / (1 - clipped)) * self.scale + self.shift
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def found(boxes: Floats, persons: Sequence[PersonAnnotation]) -> tuple[Bools, Bools]:
    """Bool (N,): which boxes (N, 4), sorted by descending score, are the first to find a person; and bool
    (N,): which boxes count. Boxes of a crowd that find no person do not count.
    """
    hits, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    taken: set[int] = set()
    of_persons = np.array([person.box for person in persons], np.float32).reshape(-1, 4)
    for index, overlaps in enumerate(iou(boxes, of_persons)):
        free = [
            n for n, o in enumerate(overlaps) if o >= FOUND_IOU and not persons[n].crowd and n not in taken
        ]
        if free:
            taken.add(max(free, key=lambda n: overlaps[n]))
            hits[index] = True
        else:
            counts[index] = not any(o > 0.05 and p.crowd for o, p in zip(overlaps, persons, strict=True))
    return hits, counts


def fit(scores: Floats, hits: Bools, persons: int) -> Calibration:
    """The most likely scale and shift of the logits of scores (N,); hits: bool (N,), found a person.

    Platt, 1999, by Newton's method.
    """
    clipped = scores.astype(np.float64).clip(1e-6, 1 - 1e-6)
    features = np.stack([np.log(clipped / (1 - clipped)), np.ones(len(scores))], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (hits - chance)
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features
        weights += np.linalg.solve(curvature + 1e-6 * np.eye(2), gradient)
    chance = 1 / (1 + np.exp(-features @ weights))
    scale, shift = weights.tolist()
    return Calibration(scale, shift, *best_f1(chance, hits, persons))


def best_f1(scores: Floats, hits: Bools, persons: int) -> tuple[float, float]:
    """The best F1 of boxes with scores (N,) that find a person or not (hits (N,)), and its score threshold.

    persons: number of persons to find.
    """
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * hits[order].cumsum() / (np.arange(1, len(scores) + 1) + persons)
    best = int(f1.argmax())
    return float(f1[best]), float(scores[order][best])


def hits_of(detected: Sequence[Scored], samples: Sequence[Sample]) -> tuple[Floats, Bools, int]:
    """Of all boxes that count in the photos: scores (N,) and whether each finds a person (N,); and the number
    of persons. detected: boxes and scores of each photo."""
    pairs = [found(boxes, sample.persons) for (boxes, _), sample in zip(detected, samples, strict=True)]
    hits = np.concatenate([h[c] for h, c in pairs])
    scores = np.concatenate([s[c] for (_, s), (_, c) in zip(detected, pairs, strict=True)])
    return scores, hits, sum(not person.crowd for sample in samples for person in sample.persons)


def renormalise(network: detector.PersonDetector, samples: Sequence[Sample]) -> None:
    """Measure the statistics of BatchNorm again, on PHOTOS of the samples, letterboxed to the input size."""
    update_bn(tqdm(_batches(samples, network.config.input_size), "statistics", PHOTOS // BATCH), network)


def _batches(samples: Sequence[Sample], size: tuple[int, int]) -> Iterator[Tensor]:
    """Batches float32 RGB (BATCH, 3, H, W) in 0..255 of photos that are drawn as in training."""
    weights = np.array([SOURCE_WEIGHT.get(sample.source, 1.0) for sample in samples])
    chosen = np.random.default_rng(0).choice(len(samples), PHOTOS, p=weights / weights.sum())
    for part in chosen.reshape(-1, BATCH):
        canvases = [letterbox(samples[i].image(), size, detector.LETTERBOX_FILL)[0] for i in part]
        yield torch.from_numpy(np.stack(canvases)[..., ::-1].copy()).permute(0, 3, 1, 2).float()


def with_all_boxes(samples: Sequence[Sample]) -> list[Sample]:
    """The photos that are kept apart and have a human box of every person."""
    return [sample for sample in samples if kept_apart(sample) and sample.boxes_complete]


def f1_of_margins(
    pose: PosePredictor, samples: Sequence[Sample], detected: Sequence[Scored]
) -> dict[float, float]:
    """The F1 of the persons of the default answer at each of MARGINS.

    detected: boxes of each photo with calibrated scores, sorted by descending score.
    """
    likely = [(boxes[s >= SERVED_SCORE], s[s >= SERVED_SCORE]) for boxes, s in detected]
    poses = estimate(pose, samples, likely)
    return {factor: _f1_of_persons(samples, likely, poses, factor) for factor in MARGINS}


def _f1_of_persons(
    samples: Sequence[Sample], detected: Sequence[Scored], poses: Sequence[Scored], factor: float
) -> float:
    _, returned = served(detected, poses, factor)
    answers = [
        (boxes[kept], sure[kept])
        for (boxes, _), (_, sure), kept in zip(detected, poses, returned, strict=True)
    ]
    scores, hits, count = hits_of(answers, samples)
    return 2 * float(hits.sum()) / max(len(scores) + count, 1)


def reliability(scores: Floats, hits: Bools) -> str:
    """A table of score intervals: number of boxes, and the share with a hit. scores, hits: (N,)."""
    edges = np.linspace(0, 1, 11)
    rows = ["score       boxes  found"]
    for low, high in pairwise(edges):
        inside = (scores >= low) & (scores < high)
        if inside.any():
            rows.append(f"{low:.1f} to {high:.1f}  {inside.sum():6}  {hits[inside].mean():.2f}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.calibrate", description=__doc__)
    parser.add_argument(
        "weights", type=Path, help="the detector's .safetensors, with a .json of the same name"
    )
    parser.add_argument("--out", type=Path, help="default: the same file")
    parser.add_argument(
        "--pose", type=Path, default=WEIGHTS / "pose.onnx", help="pose network that runs on the boxes"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of shards")
    parser.add_argument("--size", type=int, default=416, help="side of the exported input in pixels")
    options = parser.parse_args(arguments)
    train = read_data(options.data, "train")
    samples = with_all_boxes(train)
    network = detector.resized(detector.load(options.weights), (options.size, options.size))
    network.config = replace(network.config, score_scale=1.0, score_shift=0.0)
    renormalise(network, [each for each in train if not kept_apart(each)])
    detected = detect(replace(torch_detector(network), min_score=MIN_BOX_SCORE), samples)
    scores, hits, persons = hits_of(detected, samples)
    calibration = fit(scores, hits, persons)
    print(f"{len(samples)} photos, {persons} persons: {calibration}")
    print(reliability(calibration.chance(scores), hits))
    calibrated = [(boxes, calibration.chance(scores)) for boxes, scores in detected]
    f1 = f1_of_margins(load_pose(options.pose), samples, calibrated)
    print("\n".join(f"margin {margin}: F1 of persons {value:.4f}" for margin, value in f1.items()))
    box_margin = max(f1, key=lambda margin: (f1[margin], margin))  # the largest of equals
    network.config = replace(
        network.config,
        score_scale=round(calibration.scale, 3),
        score_shift=round(calibration.shift, 3),
        box_margin=box_margin,
    )
    detector.save(network, options.out or options.weights)


if __name__ == "__main__":
    main()
