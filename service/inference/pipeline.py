"""From decoded frames to persons: synchronous, without a server."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from model.artefact import DetectorMetadata, Metadata, PoseMetadata
from model.topdown import Detector, PoseEstimator
from service.inference.persons import find_boxes, find_persons
from service.inference.runtime import Files, Runtime, SpreadSession, open_session
from service.inference.session import Session
from service.types import InferenceInput, InferenceResult, Model, Models, Options


class Networks:
    """Runs the detector, then LGM-Pose on each box."""

    def __init__(self, detector: Session, pose: Session) -> None:
        metadata = DetectorMetadata.read(detector.metadata)
        if detector.batches:  # images of one size run together, and a GPU plans its work for each size
            metadata = replace(metadata, input_step=0)
        self._detector = Detector(detector.run, metadata)
        self._pose = PoseEstimator(pose.run, PoseMetadata.read(pose.metadata))
        self.models = Models(pose=_model(pose, self._pose.metadata), detector=_model(detector, metadata))
        self.skeleton = self._pose.metadata.skeleton
        self.batches = detector.batches and pose.batches

    def run(self, frames: Sequence[InferenceInput]) -> list[InferenceResult]:
        """The persons of each frame. A frame has the same result alone and in a batch."""
        start = perf_counter()
        detected = find_boxes(self._detector, frames)
        between = perf_counter()
        images, boxes = [frame.image for frame in frames], [each.boxes for each in detected]
        keypoints = self._pose.estimate(images, boxes)
        persons = [
            find_persons(*each, self.skeleton) for each in zip(frames, detected, keypoints, strict=True)
        ]
        end = perf_counter()
        return [
            InferenceResult(each, crops=len(boxes), detect=between - start, pose=end - between)
            for each, boxes in zip(persons, boxes, strict=True)
        ]


class Pipeline:
    """The networks, for calls from one thread or from several threads at the same time."""

    def __init__(self, alone: Networks, parallel: Networks) -> None:
        """alone: uses all processors. parallel: the same networks on one thread, for parallel calls."""
        self._alone, self._parallel = alone, parallel
        self.models, self.skeleton, self.batches = alone.models, alone.skeleton, alone.batches

    def run(self, frames: Sequence[InferenceInput], *, alone: bool = True) -> list[InferenceResult]:
        """The persons of each frame. A frame has the same result alone and in a batch.

        alone: no other call is running, so this one may use all processors.
        """
        return (self._alone if alone else self._parallel).run(frames)

    def alive(self) -> bool:
        """Always true: it lives as long as this process."""
        return True

    def restart(self) -> None:
        """Check that the networks, which are still in memory, run. Raises what a run raises."""
        self.run([InferenceInput(np.zeros((64, 64, 3), np.uint8), Options())])

    def close(self) -> None:
        """Does nothing: the memory is released with the object."""


def _model(session: Session, metadata: Metadata) -> Model:
    """What the service tells about a network."""
    return Model(metadata.name, metadata.version, metadata.commit, session.runtime, session.precision)


def open_pipeline(files: Files | Path, *, threads: int, runtime: Runtime = "auto") -> Pipeline:
    """The pipeline of two files, or of those in a folder, on a GPU or on `threads` CPU threads.

    Raises ArtefactError.
    """
    if isinstance(files, Path):
        files = Files.of(files)
    detector, pose = _open(files, runtime, threads=threads)
    if pose.batches or threads == 1:
        alone = Networks(detector, pose)
        return Pipeline(alone, alone)
    single_detector, single_pose = _open(files, runtime, threads=1, calls=threads)
    spread = SpreadSession(pose, single_pose, threads=threads)
    return Pipeline(Networks(detector, spread), Networks(single_detector, single_pose))


def _open(files: Files, runtime: Runtime, *, threads: int, calls: int = 1) -> tuple[Session, Session]:
    """The sessions of the detector and of the pose network."""
    return (
        open_session(files.detector, "detector", threads=threads, calls=calls, runtime=runtime),
        open_session(files.pose, "pose", threads=threads, calls=calls, runtime=runtime),
    )
