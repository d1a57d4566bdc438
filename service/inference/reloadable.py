"""The pipeline that answers now, and how another takes its place."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from threading import Lock
from typing import Protocol

from service.errors import WorkerLost
from service.observability.metrics import BATCH_CROPS, MODEL, MODEL_RELOADS
from service.types import Estimate, Frame, Models

logger = logging.getLogger(__name__)
_DONE, _REFUSED = MODEL_RELOADS.labels("done"), MODEL_RELOADS.labels("refused")


class AnyPipeline(Protocol):
    """A pipeline of this process or of a child."""

    @property
    def models(self) -> Models:
        """The networks that it runs."""

    def run(self, frames: Sequence[Frame]) -> list[Estimate]:
        """The persons of each frame. Raises WorkerLost when it can run no more."""

    def alive(self) -> bool:
        """Whether it can run."""

    def restart(self) -> None:
        """Make it run again, with the same networks. Raises whatever is in the way."""

    def close(self) -> None:
        """End it, once its batch is done."""


class Worker:
    """Runs frames by the networks of the files as they were when last found good."""

    def __init__(self, open_pipeline: Callable[[], AnyPipeline]) -> None:
        """open_pipeline: opens and tries out the files of now. Raises what it raises."""
        self._open = open_pipeline
        self._changing, self._reloading = Lock(), Lock()
        self._pipeline = open_pipeline()
        self._publish()

    def models(self) -> Models:
        """The networks that answer."""
        return self._pipeline.models

    def run(self, frames: Sequence[Frame]) -> list[Estimate]:
        """The persons of each frame. Raises WorkerLost."""
        pipeline = self._pipeline
        try:
            estimates = pipeline.run(frames)
        except WorkerLost:
            if pipeline is self._pipeline:
                raise
            return self.run(frames)  # another had just taken its place
        BATCH_CROPS.observe(sum(each.crops for each in estimates))
        return estimates

    def alive(self) -> bool:
        """Whether it can run."""
        return self._pipeline.alive()

    def restart(self) -> None:
        """Run again after a loss. Raises whatever is in the way."""
        with self._changing:
            self._pipeline.restart()

    def reload(self) -> None:
        """The files of now, from the next batch on; where they are not good, all stays as it is."""
        with self._reloading:
            try:
                new = self._open()
            except Exception as error:
                _REFUSED.inc()
                logger.error("networks refused", extra={"reason": str(error)})
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
