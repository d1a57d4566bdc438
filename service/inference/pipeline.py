"""From decoded frames to persons; synchronous, and usable without a server."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from model.artefact import DetectorMetadata, Metadata, PoseMetadata
from model.topdown import Detector, PoseEstimator
from service.inference.persons import find_boxes, find_persons
from service.inference.runtime import Runtime, Session, open_session
from service.types import Estimate, Frame, Model, Models, Options


class Networks:
    """The detector, then LGM-Pose on each box."""

    def __init__(self, detector: Session, pose: Session) -> None:
        self._detector = Detector(detector.run, DetectorMetadata.read(detector.metadata))
        self._pose = PoseEstimator(pose.run, PoseMetadata.read(pose.metadata))
        self.models = Models(pose=_model(self._pose.metadata), detector=_model(self._detector.metadata))
        self.batches = detector.batches and pose.batches

    def run(self, frames: Sequence[Frame]) -> list[Estimate]:
        """The persons of each frame, the same as if it were alone."""
        start = perf_counter()
        detected = find_boxes(self._detector, frames)
        between = perf_counter()
        images, boxes = [frame.image for frame in frames], [each.boxes for each in detected]
        keypoints = self._pose.estimate(images, boxes)
        persons = [find_persons(*each) for each in zip(frames, detected, keypoints, strict=True)]
        end = perf_counter()
        return [
            Estimate(each, crops=len(boxes), detect=between - start, pose=end - between)
            for each, boxes in zip(persons, boxes, strict=True)
        ]


class Pipeline:
    """The networks, for callers on one thread or on several at the same time."""

    def __init__(self, alone: Networks, beside: Networks) -> None:
        """alone: may take every processor. beside: the same on one thread, for calls at the same time."""
        self._alone, self._beside = alone, beside

    @property
    def models(self) -> Models:
        """The networks that it runs."""
        return self._alone.models

    @property
    def batches(self) -> bool:
        """Whether frames run faster in batches, as on a GPU, than in calls at the same time."""
        return self._alone.batches

    def run(self, frames: Sequence[Frame], *, alone: bool = True) -> list[Estimate]:
        """The persons of each frame, the same as if it were alone.

        alone: no other call is under way, so that this one may use every processor.
        """
        return (self._alone if alone else self._beside).run(frames)

    def alive(self) -> bool:
        """It is as long as this process is."""
        return True

    def restart(self) -> None:
        """The networks are still in memory: see that they run. Raises what a run raises."""
        self.run([Frame(np.zeros((64, 64, 3), np.uint8), Options())])

    def close(self) -> None:
        """Nothing needs an end; the memory is given back with the object."""


def _model(metadata: Metadata) -> Model:
    """What a network is called."""
    return Model(metadata.name, metadata.version, metadata.commit)


def open_pipeline(weights: Path, *, threads: int, runtime: Runtime = "onnx") -> Pipeline:
    """The pipeline of `detector.onnx` and `pose.onnx` in a folder, on a GPU or so many CPU threads.

    Raises ArtefactError.
    """
    alone = _open(weights, threads, runtime)
    return Pipeline(alone, alone if alone.batches or threads == 1 else _open(weights, 1, runtime))


def _open(weights: Path, threads: int, runtime: Runtime) -> Networks:
    return Networks(
        detector=open_session(weights / "detector.onnx", "detector", threads=threads, runtime=runtime),
        pose=open_session(weights / "pose.onnx", "pose", threads=threads, runtime=runtime),
    )
