"""Accuracy over REST of pairs of networks, next to that of the same files in `model.evaluate`.

`python -m benchmarks.served_accuracy --pair NAME DETECTOR.onnx POSE.onnx` starts a service of each pair by
POSE_DETECTOR and POSE_POSE and sends it the labelled validation photos whose boxes are complete, one at a
time. There is no flip average.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.rounds import WEIGHTS, options, write
from model.evaluate import MAX_PERSONS, detect, estimate, is_labelled
from model.metrics import Scored, keypoint_accuracy
from model.pose_dataset import read_data
from model.predictors import load_detector, load_pose
from model.samples import Sample, kept_apart
from tests.support.service import Service

NOBODY: Scored = np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32)
OURS = ["LGM-Person + LGM-Pose", str(WEIGHTS / "detector.onnx"), str(WEIGHTS / "pose.onnx")]


def served(detector: str, pose: str, samples: Sequence[Sample]) -> tuple[list[Scored], float]:
    """Poses (N, K, 3) and scores (N,) of each photo from a service of the networks; its CPU milliseconds a
    photo, at the default `min_score`."""
    service = Service(detector=detector, pose=pose)
    try:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            poses = [found(client, sample, min_score=0, max_persons=MAX_PERSONS) for sample in samples]
            before = cpu_seconds(service)
            for sample in samples:
                found(client, sample)
            return poses, 1000 * (cpu_seconds(service) - before) / len(samples)
    finally:
        service.close()


def found(client: httpx.Client, sample: Sample, **options: float) -> Scored:
    """Poses (N, K, 3) and scores (N,) that a service finds in a photo."""
    headers = {"content-type": "image/webp"}
    answer = client.post("/v1/poses", params=options, content=sample.read(), headers=headers)
    (result,) = answer.raise_for_status().json()["results"]
    persons = result["persons"]
    if not persons:
        return NOBODY
    keypoints = np.array([person["keypoints"] for person in persons], np.float32)
    scores = np.array([person["score"] for person in persons], np.float32)
    return keypoints, scores


def cpu_seconds(service: Service) -> float:
    """CPU time of the service so far."""
    times = psutil.Process(service.process.pid).cpu_times()
    return float(times.user + times.system)


def evaluated(detector: str, pose: str, samples: Sequence[Sample]) -> list[Scored]:
    """The same as `model.evaluate` computes it."""
    found = detect(load_detector(Path(detector)), samples)
    return estimate(load_pose(Path(pose)), samples, found)


def measure(pairs: Sequence[Sequence[str]], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row for each pair of name, detector file and pose file."""
    rows = []
    for name, detector, pose in pairs:
        poses, milliseconds = served(detector, pose, samples)
        over_rest = keypoint_accuracy(samples, poses)
        in_process = keypoint_accuracy(samples, evaluated(detector, pose, samples))
        row = {
            "networks": name,
            "ap_served": round(over_rest.ap, 4),
            "ap_evaluated": round(in_process.ap, 4),
            "cpu_ms": round(milliseconds),
            "persons": over_rest.persons,
            "photos": over_rest.images,
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options("served_accuracy", __doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="[%(default)s]")
    parser.add_argument("--pair", nargs=3, action="append", metavar=("NAME", "DETECTOR", "POSE"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    samples = [
        sample
        for sample in read_data(chosen.data, "val")
        if sample.source == "coco"
        and sample.boxes_complete
        and is_labelled(sample)
        and not kept_apart(sample)
    ]
    write(chosen.out, 1, measure(chosen.pair or [OURS], samples))


if __name__ == "__main__":
    main()
