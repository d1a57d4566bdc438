"""Photos per second and accuracy, from the file to the poses: `python -m benchmarks.pipeline`.

Compares our two networks in the service's pipeline, three pairs of published networks, and MediaPipe Pose,
which finds one person per photo. Each runs on one processor. All systems run on a photo before the next
photo, because the machine's speed drifts. The photos show one, about three and about ten persons, or half of
them no one. Ours runs as the service runs it on this processor, and in float32 as on a processor without
instructions for int8; the published ones run in float32. Accuracy is measured on photos with complete
labels, with the same thresholds as the speed and no flip test. Ours has the service's defaults. A published
detector has the threshold at which the F1 of its boxes is best on the training photos that are kept apart,
as ours was chosen.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.environments import python_of
from benchmarks.rounds import WEIGHTS, Figures, options, row, write
from model.baselines import MoveNetLightning, picodet, pp_tinypose, rtmdet
from model.calibrate import best_f1, hits_of, with_all_boxes
from model.evaluate import detect, is_labelled
from model.keypoints import keypoint_score
from model.metrics import Scored, keypoint_accuracy
from model.pose_dataset import read_data
from model.predictors import PosePredictor
from model.samples import Sample
from model.topdown import Detector
from service.core.image import decode
from service.inference.pipeline import Pipeline, open_pipeline
from service.inference.runtime import Runtime
from service.types import InferenceInput, Options

#: Groups of photos by name: the smallest and largest number of persons.
GROUPS = {"1 person": (1, 1), "2 to 4 persons": (2, 4), "8 to 14 persons": (8, 14)}
ALL = "all photos"
HALF = "half without persons"
NOTHING: Scored = np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32)


@dataclass(frozen=True)
class Measured:
    """A photo: wall time and CPU time in seconds, and the poses."""

    seconds: float
    busy: float
    poses: Scored


#: A system maps the path of a JPEG to its time and poses.
System = Callable[[str], Measured]


def local(estimate: Callable[[bytes], Scored]) -> System:
    """A system in this process."""

    def run(path: str) -> Measured:
        busy, start = process_time(), perf_counter()
        poses = estimate(Path(path).read_bytes())
        return Measured(perf_counter() - start, process_time() - busy, poses)

    return run


def per_photo(measured: Sequence[Measured]) -> Figures:
    """Photos a second, and milliseconds of wall time and CPU time a photo."""
    photos, seconds = len(measured), sum(each.seconds for each in measured)
    busy = sum(each.busy for each in measured)
    return {"per_second": photos / seconds, "ms": 1000 * seconds / photos, "cpu_ms": 1000 * busy / photos}


def ours(pipeline: Pipeline, wanted: Options, data: bytes) -> Scored:
    """The service's pipeline."""
    (estimate,) = pipeline.run([InferenceInput(decode(data), wanted)])
    if not estimate.persons:
        return NOTHING
    keypoints = np.array([person.keypoints for person in estimate.persons], np.float32)
    return keypoints, np.array([person.score for person in estimate.persons], np.float32)


def pair(detector: Detector, pose: PosePredictor, most: int, data: bytes) -> Scored:
    """Two networks: the boxes of the detector, at most `most`, and the pose in each."""
    image = decode(data)
    ((boxes, scores),) = detector.detect([image])
    if not len(boxes):
        return NOTHING
    (keypoints,) = pose.estimate([image], [boxes[:most]])
    return keypoints, scores[:most] * keypoint_score(keypoints[:, :, 2])


def at_best_f1(detector: Detector, samples: Sequence[Sample]) -> Detector:
    """The detector with the threshold at which the F1 of its boxes is best on the photos."""
    _, threshold = best_f1(*hits_of(detect(detector, samples), samples))
    return replace(detector, min_score=threshold)


@contextmanager
def mediapipe() -> Iterator[System]:
    """MediaPipe Pose in its own process and environment."""
    python, script = python_of("mediapipe"), Path(__file__).parent / "mediapipe_pose.py"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([python, script], stderr=subprocess.DEVNULL, **pipes) as process:

        def run(path: str) -> Measured:
            assert process.stdin is not None and process.stdout is not None
            print(path, file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            keypoints = np.array(answer["persons"], np.float32).reshape(-1, 17, 3)
            poses = keypoints, keypoints[:, :, 2].mean(1)
            return Measured(answer["seconds"], answer["cpu_seconds"], poses)

        yield run


@contextmanager
def opened(chosen: argparse.Namespace, wanted: Options) -> Iterator[dict[str, System]]:
    """The systems to compare, ours first."""
    ways: dict[str, Runtime] = {"ours": "auto", "ours in float32 (onnxruntime)": "onnx"}
    systems = {
        name: local(partial(ours, open_pipeline(WEIGHTS, threads=1, runtime=runtime), wanted))
        for name, runtime in ways.items()
    }
    if chosen.alone:
        yield systems
        return
    folder, decided_on = chosen.baselines, with_all_boxes(read_data(chosen.data, "train"))
    pico, rtm = (at_best_f1(detector, decided_on) for detector in (picodet(folder), rtmdet(folder)))
    print(f"boxes from a score of {pico.min_score:.2f} (PicoDet-S) and {rtm.min_score:.2f} (RTMDet-nano) on")
    published: dict[str, tuple[Detector, PosePredictor]] = {
        "PicoDet-S + PP-TinyPose (OpenVINO)": (pico, pp_tinypose(folder)),
        "RTMDet-nano + PP-TinyPose (onnxruntime)": (rtm, pp_tinypose(folder, onnx=True)),
        "RTMDet-nano + MoveNet Lightning (onnxruntime)": (rtm, MoveNetLightning(folder)),
    }
    for name, (detector, pose) in published.items():
        systems[name] = local(partial(pair, detector, pose, wanted.max_persons))
    with mediapipe() as one:
        yield {**systems, "MediaPipe Pose": one}


def choose(samples: Sequence[Sample], most: int) -> dict[str, list[Sample]]:
    """At most `most` photos of each group that has any.

    ALL has all photos with labelled persons, HALF at most 30 of them and as many without a person, the
    other groups those with a number of persons.
    """
    everything, samples = samples, [sample for sample in samples if is_labelled(sample)]
    empty = [sample for sample in everything if not sample.persons][: min(30, most // 2, len(samples))]
    groups = {ALL: samples[:most], HALF: [*samples[: len(empty)], *empty]}
    for name, (fewest, largest) in GROUPS.items():
        inside = [sample for sample in samples if fewest <= len(sample.persons) <= largest]
        groups[name] = sorted(inside, key=lambda sample: len(sample.persons))[:most]
    return {name: chosen for name, chosen in groups.items() if chosen}


def measure(
    systems: dict[str, System], groups: dict[str, list[Sample]], folder: Path, rounds: int
) -> list[dict[str, Any]]:
    """A row for each system and group: figures, accuracy, and persons found per photo."""
    photos = {sample.id: sample for samples in groups.values() for sample in samples}
    paths = {photo: _jpeg(sample, folder) for photo, sample in photos.items()}
    for run in systems.values():
        run(next(iter(paths.values())))  # the first run allocates
    found = [_round(systems, paths, number) for number in range(rounds)]
    rows = []
    for group, samples in groups.items():
        of_system = {
            name: [[each[name, sample.id] for sample in samples] for each in found] for name in systems
        }
        figures = {name: [per_photo(each) for each in measured] for name, measured in of_system.items()}
        for name, measured in of_system.items():
            about = _about(samples, [each.poses for each in measured[-1]])
            medians = row(figures[name], figures[next(iter(systems))])
            rows.append({"group": group, "system": name, **medians, **about})
    return rows


def _round(systems: dict[str, System], paths: dict[int, str], number: int) -> dict[tuple[str, int], Measured]:
    """Each system on each photo, photo by photo; every second time in reverse order."""
    found = {}
    for index, (photo, path) in enumerate(tqdm(paths.items(), f"round {number + 1}", unit="photo")):
        for name in list(systems)[:: 1 if (number + index) % 2 == 0 else -1]:
            found[name, photo] = systems[name](path)
    return found


def _about(samples: Sequence[Sample], poses: Sequence[Scored]) -> dict[str, Any]:
    accuracy = keypoint_accuracy(samples, poses) if any(len(each[1]) for each in poses) else None
    return {
        "ap": round(accuracy.ap, 4) if accuracy else 0.0,
        "photos": len(samples),
        "persons_a_photo": round(float(np.mean([len(sample.persons) for sample in samples])), 1),
        "found_a_photo": round(float(np.mean([len(each[1]) for each in poses])), 1),
    }


def _jpeg(sample: Sample, folder: Path) -> str:
    """The photo as a JPEG, as cameras and clients send it."""
    path = folder / f"{sample.id}.jpg"
    if not path.exists():
        cv2.imwrite(str(path), sample.image(), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return str(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("pipeline", __doc__)
    shared = Path("../shared")
    parser.add_argument("--data", type=Path, default=shared / "data", help="labelled photos [%(default)s]")
    parser.add_argument("--baselines", type=Path, default=shared / "teachers", help="networks [%(default)s]")
    parser.add_argument(
        "--photos", type=int, default=1000, help="largest number of photos of a group [%(default)s]"
    )
    parser.add_argument("--alone", action="store_true", help="ours only")
    chosen = parser.parse_args(arguments)
    samples = [
        sample
        for sample in read_data(chosen.data, "val")
        if sample.source == "coco" and sample.boxes_complete
    ]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one processor, for MediaPipe's process too
    wanted = Options()
    with tempfile.TemporaryDirectory() as folder, opened(chosen, wanted) as systems:
        rows = measure(systems, choose(samples, chosen.photos), Path(folder), chosen.rounds)
    write(chosen.out, chosen.rounds, rows, min_score=wanted.min_score)


if __name__ == "__main__":
    main()
