"""Accuracy of our networks, and of published ones, on the same labelled photos.

`python -m model.evaluate --baselines ../shared/teachers` prints one table. Its rows, and their photos:

- keypoints, boxes given: photos with labelled keypoints; the box of each labelled person is given.
- person boxes; keypoints, boxes detected: those of them in which every person has a box.
- keypoints, as served: the boxes and poses that the service returns at its default `min_score`, with the
  number of boxes that it estimates for each returned person.
- the same, all photos: all photos in which every person has a box, including those without labelled
  keypoints and without persons, which also shows false detections.

Photos kept apart for decisions are excluded. On MPII it prints PCKh.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from model.baselines import MoveNetLightning, picodet, pp_tinypose, rtmdet
from model.geometry import Floats
from model.keypoints import keypoint_score
from model.metrics import Accuracy, Scored, box_accuracy, has_keypoints, keypoint_accuracy, pckh
from model.pose_dataset import read_data
from model.predictors import PersonPredictor, PosePredictor, load_detector, load_pose
from model.samples import PersonAnnotation, Sample, kept_apart
from model.topdown import Detector, select_persons

WEIGHTS = Path(__file__).parent / "weights"

#: COCO counts at most this number of poses per photo.
MAX_PERSONS = 20
#: What the service asks of a person's score where its caller asks nothing.
SERVED_SCORE = 0.15
#: Boxes of lower scores change no figure.
MIN_BOX_SCORE = 0.002

#: The detectors and pose networks that are measured together.
PAIRS = (
    ("ours", "ours"),
    ("PicoDet-S", "PP-TinyPose"),
    ("RTMDet-nano", "PP-TinyPose"),
    ("RTMDet-nano", "MoveNet Lightning"),
)


def pose_accuracy(predictor: PosePredictor, samples: Sequence[Sample]) -> Accuracy:
    """Keypoint AP where the box of each person is given.

    It uses every labelled person of the photos with labelled keypoints. The score of a pose is the mean of
    its keypoint scores.
    """
    labelled = [sample for sample in samples if is_labelled(sample)]
    poses = []
    for sample in tqdm(labelled, "keypoints", unit="photo"):
        boxes = np.stack([person.box for person in sample.persons if has_keypoints(person)])
        (keypoints,) = predictor.estimate([sample.image()], [boxes])
        poses.append((keypoints, keypoints[:, :, 2].mean(1)))
    return keypoint_accuracy(labelled, poses)


def is_labelled(sample: Sample) -> bool:
    """Whether the photo has human keypoint labels."""
    return any(map(has_keypoints, sample.persons))


def detect(predictor: PersonPredictor, samples: Sequence[Sample]) -> list[Scored]:
    """The boxes and scores that a detector finds in each photo."""
    return [predictor.detect([sample.image()])[0] for sample in tqdm(samples, "persons", unit="photo")]


def person_accuracy(predictor: PersonPredictor, samples: Sequence[Sample]) -> Accuracy:
    """Person box AP on the labelled photos with complete boxes; crowds are ignored."""
    complete = [sample for sample in samples if sample.boxes_complete and is_labelled(sample)]
    return box_accuracy(complete, detect(predictor, complete))


def estimate(
    predictor: PosePredictor, samples: Sequence[Sample], detections: Sequence[Scored]
) -> list[Scored]:
    """Poses in detected boxes; detections[i] are boxes and scores of samples[i], sorted by descending score.

    The score of a pose is that of its box times that of its keypoints.
    """
    poses = []
    for sample, (boxes, scores) in zip(tqdm(samples, "both", unit="photo"), detections, strict=True):
        boxes, scores = boxes[:MAX_PERSONS], scores[:MAX_PERSONS]
        keypoints = np.zeros((0, 17, 3), np.float32)
        if len(boxes):
            (keypoints,) = predictor.estimate([sample.image()], [boxes])
        poses.append((keypoints, scores * keypoint_score(keypoints[:, :, 2])))
    return poses


def pckh_accuracy(predictor: PosePredictor, samples: Sequence[Sample]) -> dict[str, float]:
    """PCKh@0.5 of each joint group and their mean on MPII's photos; the box of each person is given."""
    persons: list[PersonAnnotation] = []
    keypoints: list[Floats] = []
    for sample in tqdm(samples, "joints", unit="photo"):
        persons += sample.persons
        keypoints += predictor.estimate([sample.image()], [np.stack([p.box for p in sample.persons])])
    return pckh(persons, np.concatenate(keypoints)) | {"persons": len(persons), "images": len(samples)}


def compare(
    poses: dict[str, PosePredictor], detectors: dict[str, PersonPredictor], samples: Sequence[Sample]
) -> list[dict[str, Any]]:
    """One record for each row of the table: task, networks and accuracy."""
    given = [
        _row("keypoints, boxes given", name, pose_accuracy(pose, samples)) for name, pose in poses.items()
    ]
    complete = [sample for sample in samples if sample.boxes_complete]
    boxes = {name: detect(detector, complete) for name, detector in detectors.items()}
    both = {
        f"{detector} + {pose}": estimate(poses[pose], complete, boxes[detector])
        for detector, pose in PAIRS
        if detector in detectors and pose in poses
    }
    ours = detectors["ours"]
    margin = ours.metadata.box_margin if isinstance(ours, Detector) else 1.0
    looked_at, returned = served(boxes["ours"], both["ours + ours"], margin)
    answers = [
        (keypoints[kept], scores[kept])
        for (keypoints, scores), kept in zip(both["ours + ours"], returned, strict=True)
    ]
    as_served = _rows("keypoints, as served", keypoint_accuracy, complete, {"ours + ours": answers})
    for row in as_served:
        every = row["images"] == len(complete)
        chosen = [i for i, sample in enumerate(complete) if every or is_labelled(sample)]
        row["boxes_a_photo"] = sum(looked_at[i] for i in chosen) / len(chosen)
        row["persons_a_photo"] = sum(len(answers[i][1]) for i in chosen) / len(chosen)
    return [
        *given,
        *_rows("person boxes", box_accuracy, complete, boxes),
        *_rows("keypoints, boxes detected", keypoint_accuracy, complete, both),
        *as_served,
    ]


def served(
    detections: Sequence[Scored], poses: Sequence[Scored], margin: float
) -> tuple[list[int], list[npt.NDArray[np.intp]]]:
    """How many boxes of each photo the service looks at by default, and the indices (N,) of those that it
    returns as persons, sorted by descending score of the pose.

    margin: the detector's. poses: of the first of each photo's boxes, in their order.
    """
    looked_at, returned = [], []
    for (boxes, scores), (keypoints, sure) in zip(detections, poses, strict=True):
        count = int((scores[: len(sure)] >= margin * SERVED_SCORE).sum())
        looked_at.append(count)
        returned.append(select_persons(boxes[:count], keypoints[:count], sure[:count], SERVED_SCORE))
    return looked_at, returned


def _rows(
    task: str,
    accuracy: Callable[[Sequence[Sample], Sequence[Scored]], Accuracy],
    samples: Sequence[Sample],
    predictions: dict[str, list[Scored]],
) -> list[dict[str, Any]]:
    """Rows for the labelled photos among the samples, then rows for all of them, if there are any."""
    labelled = [index for index, sample in enumerate(samples) if is_labelled(sample)]
    return [
        _row(title, name, accuracy([samples[i] for i in chosen], [found[i] for i in chosen]))
        for title, chosen in ((task, labelled), (f"{task}, all photos", range(len(samples))))
        if chosen
        for name, found in predictions.items()
    ]


def _row(task: str, network: str, accuracy: Accuracy) -> dict[str, Any]:
    return {"task": task, "network": network, **asdict(accuracy)}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of records with the same keys; shares in [0, 1] with three decimals, "-" for none."""
    columns = [name for name in rows[0] if name not in ("ap_medium", "ap_large")]
    titles = [name.upper() if name.startswith(("ap", "ar")) else name for name in columns]
    lines = [titles, ["---"] * len(columns)]
    lines += [[_cell(row[name]) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value >= 0 else "-"
    return str(value)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    kinds = ".onnx or .safetensors"
    parser.add_argument("--pose", type=Path, default=WEIGHTS / "pose.onnx", help=kinds)
    parser.add_argument("--detector", type=Path, default=WEIGHTS / "detector.onnx", help=kinds)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="shards, COCO or MPII")
    parser.add_argument("--split", default="val", help="train or val [val]")
    parser.add_argument("--source", default="coco", help="photos of this source only")
    parser.add_argument(
        "--decide", action="store_true", help="measure on the photos kept apart, not on all others"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored crop, for heatmaps")
    parser.add_argument(
        "--dark",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="find keypoints between the pixels of heatmaps",
    )
    parser.add_argument("--baselines", type=Path, help="folder of published networks to compare with")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the table for the options. Raises ValueError if no photo matches them."""
    read = read_data(options.data, options.split)
    samples = [s for s in read if s.source == options.source and kept_apart(s) == options.decide]
    if not samples:
        raise ValueError(f"no photos of split {options.split!r}, source {options.source!r} in {options.data}")
    if options.source == "mpii":
        pose = load_pose(options.pose, dark=options.dark, flip=options.flip)
        return [{"network": "ours", **pckh_accuracy(pose, samples)}]
    poses: dict[str, PosePredictor] = {"ours": load_pose(options.pose, dark=options.dark, flip=options.flip)}
    detectors: dict[str, Detector] = {"ours": load_detector(options.detector)}
    if options.baselines:
        poses["PP-TinyPose"] = pp_tinypose(options.baselines, dark=options.dark, flip=options.flip)
        poses["MoveNet Lightning"] = MoveNetLightning(options.baselines)
        detectors |= {"PicoDet-S": picodet(options.baselines), "RTMDet-nano": rtmdet(options.baselines)}
    every = {name: replace(each, min_score=MIN_BOX_SCORE) for name, each in detectors.items()}
    return compare(poses, dict[str, PersonPredictor](every), samples)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    rows = measure(options)
    print(markdown(rows))
    for row in rows:
        if "boxes_a_photo" in row:
            boxes, persons = row["boxes_a_photo"], row["persons_a_photo"]
            print(f"{row['task']}: {boxes:.2f} boxes looked at and {persons:.2f} persons given a photo")
    if options.json:
        keys = ("data", "split", "source", "decide", "flip", "dark")
        how = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        options.json.write_text(json.dumps({key: how[key] for key in keys} | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
