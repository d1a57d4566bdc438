"""From decoded frames to persons; synchronous, and usable without a server."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

from model.artefact import DetectorMetadata, Metadata, PoseMetadata
from model.topdown import Detector, PoseEstimator
from service.inference.persons import find_boxes, find_persons
from service.inference.runtime import Runtime, Session, open_session
from service.types import Estimate, Frame, Model, Models, Options


class Pipeline:
    """The detector, then LGM-Pose on each box.

    On processors the frames of a batch run side by side, each from start to end on a thread of its own; fewer
    frames than threads are worked on by all of them.
    """

    def __init__(self, detector: Session, pose: Session, *, threads: int = 1) -> None:
        """threads: that the sessions run on."""
        self._detector = Detector(detector.run, DetectorMetadata.read(detector.metadata))
        self._pose = PoseEstimator(pose.run, PoseMetadata.read(pose.metadata))
        self.models = Models(pose=_model(self._pose.metadata), detector=_model(self._detector.metadata))
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        if detector.single is not detector and pose.single is not pose:
            self._single = Pipeline(detector.single, pose.single)
            self._pool = ThreadPoolExecutor(threads, "frames")

    def run(self, frames: Sequence[Frame]) -> list[Estimate]:
        """The persons of each frame, the same as if it were alone."""
        if self._pool is None or len(frames) < self._threads:
            return self._together(frames)
        return [estimate for (estimate,) in self._pool.map(lambda frame: self._single.run([frame]), frames)]

    def _together(self, frames: Sequence[Frame]) -> list[Estimate]:
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
    """The pipeline of `detector.onnx` and `pose.onnx` in a folder. Raises ArtefactError."""
    return Pipeline(
        detector=open_session(weights / "detector.onnx", "detector", threads=threads, runtime=runtime),
        pose=open_session(weights / "pose.onnx", "pose", threads=threads, runtime=runtime),
        threads=threads,
    )
