"""The current pipeline, and its replacement while the service runs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from threading import Lock
from typing import Protocol

from model.keypoints import Skeleton
from service.errors import ArtefactError, WorkerLost
from service.observability.metrics import BATCH_CROPS, MODEL, MODEL_RELOADS
from service.types import InferenceInput, InferenceResult, Models

logger = logging.getLogger(__name__)
_DONE, _REFUSED = MODEL_RELOADS.labels("done"), MODEL_RELOADS.labels("refused")


class AnyPipeline(Protocol):
    """A pipeline in this process or in a child process.

    models: the loaded networks. skeleton: the keypoints of its persons. batches: batches are faster than
    parallel calls, as on a GPU.
    """

    models: Models
    skeleton: Skeleton
    batches: bool

    def run(self, frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        """The persons of each frame. Raises WorkerLost when the pipeline can no longer run.

        alone: no other call is running, so this one may use all processors.
        """

    def alive(self) -> bool:
        """Whether it can run."""

    def restart(self) -> None:
        """Restart it with the same networks. Raises an exception if that fails."""

    def close(self) -> None:
        """End it after the running calls."""


class ReloadablePipeline:
    """Runs inference with the most recently loaded valid networks."""

    def __init__(self, open_pipeline: Callable[[], AnyPipeline]) -> None:
        """open_pipeline: loads and tests the current files. Raises what it raises."""
        self._open = open_pipeline
        self._changing, self._reloading = Lock(), Lock()
        self._pipeline = open_pipeline()
        #: The keypoints of the persons. A reload does not change them, because clients ask for them once.
        self.skeleton = self._pipeline.skeleton
        #: Whether batches are faster than parallel calls, as on a GPU.
        self.batches = self._pipeline.batches
        self._publish()

    def models(self) -> Models:
        """The loaded networks."""
        return self._pipeline.models

    def run(self, frames: Sequence[InferenceInput], *, alone: bool = True) -> list[InferenceResult]:
        """The persons of each frame; `alone` as in AnyPipeline. Raises WorkerLost."""
        pipeline = self._pipeline
        try:
            estimates = pipeline.run(frames, alone=alone)
        except WorkerLost:
            if pipeline is self._pipeline:
                raise
            return self.run(frames, alone=alone)  # it was just replaced by a reload
        BATCH_CROPS.observe(sum(each.crops for each in estimates))
        return estimates

    def alive(self) -> bool:
        """Whether it can run."""
        pipeline = self._pipeline
        # a pipeline that ended because a reload replaced it is not a loss
        return pipeline.alive() or pipeline is not self._pipeline

    def restart(self) -> None:
        """Restart after a loss. Raises an exception if that fails."""
        with self._changing:
            self._pipeline.restart()

    def reload(self) -> None:
        """Load the current files for all further calls; keep the old networks if the files are invalid."""
        with self._reloading:
            try:
                new = self._open()
                if new.skeleton != self.skeleton:
                    new.close()
                    raise ArtefactError("the pose network has another skeleton: restart the service")
            except Exception as error:
                _REFUSED.inc()
                logger.error("networks rejected", extra={"reason": str(error)})
                return
            with self._changing:
                old, self._pipeline = self._pipeline, new
                old.close()
            self._publish()
            _DONE.inc()
            logger.info("networks reloaded", extra=asdict(self.models()))

    def close(self) -> None:
        """End the pipeline."""
        with self._changing:
            self._pipeline.close()

    def _publish(self) -> None:
        for task, model in asdict(self.models()).items():
            MODEL.labels(task).info(model)
