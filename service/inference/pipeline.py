"""From decoded frames to persons; synchronous, and usable without a server."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

from service.inference.detector import Detector
from service.inference.pose import PoseEstimator
from service.inference.runtime import Runtime, Session, model_of, open_session
from service.types import Estimate, Frame, Models, Options


class Pipeline:
    """The detector, then LGM-Pose on each box.

    On processors the frames of a batch run side by side, each from start to end on a thread of its own; fewer
    frames than threads are worked on by all of them.
    """

    def __init__(self, detector: Session, pose: Session, *, threads: int = 1) -> None:
        """threads: that the sessions run on."""
        self._detector, self._pose = Detector(detector), PoseEstimator(pose)
        self.models = Models(pose=model_of(pose), detector=model_of(detector))
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
        detected = self._detector.detect(frames)
        between = perf_counter()
        persons = self._pose.estimate(frames, detected)
        end = perf_counter()
        return [
            Estimate(each, crops=len(boxes.boxes), detect=between - start, pose=end - between)
            for each, boxes in zip(persons, detected, strict=True)
        ]

    def alive(self) -> bool:
        """It is as long as this process is."""
        return True

    def restart(self) -> None:
        """The networks are still in memory: see that they run. Raises what a run raises."""
        self.run([Frame(np.zeros((64, 64, 3), np.uint8), Options())])

    def close(self) -> None:
        """Nothing needs an end; the memory is given back with the object."""


def open_pipeline(weights: Path, *, threads: int, runtime: Runtime = "onnx") -> Pipeline:
    """The pipeline of `detector.onnx` and `pose.onnx` in a folder. Raises ArtefactError."""
    return Pipeline(
        detector=open_session(weights / "detector.onnx", "detector", threads=threads, runtime=runtime),
        pose=open_session(weights / "pose.onnx", "pose", threads=threads, runtime=runtime),
        threads=threads,
    )
