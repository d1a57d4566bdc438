"""The work of a runner on the images that it has taken: header, memory, decoding, networks, drawing.

Images wait in the queue in encoded form, so they are small, and a stream may replace a waiting frame by a
newer one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from threading import Lock
from time import perf_counter
from typing import Protocol

from model.keypoints import COCO, Skeleton
from service.core.drawing import draw
from service.core.image import decode, read_size
from service.core.memory import PixelMemory
from service.errors import PoseError
from service.types import Image, InferenceInput, InferenceResult, Known, Options, Person, Picture

_DECODED_IMAGES = 4  # images of the largest allowed size; bounds the memory of decoded images


def _nothing(_: Image) -> None:
    """Nothing is known: the networks find the persons."""


@dataclass(frozen=True, slots=True)
class Job:
    """An image to work on.

    arrived: when it came, in seconds of `perf_counter`. known: what is known of the persons; the runner
    calls it with the decoded image. drawn: whether the answer has a drawing.
    """

    picture: Picture
    options: Options
    arrived: float
    known: Callable[[Image], Known] = _nothing
    drawn: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The result of an image with its size, and the start and end of its decoding (`perf_counter`).

    drawing: the image with the skeletons as a JPEG; empty if not requested.
    """

    width: int
    height: int
    estimate: InferenceResult
    begun: float
    decoded: float
    drawing: bytes


@dataclass(frozen=True, slots=True)
class _Found:
    """A decoded image whose persons are known."""

    image: Image
    persons: tuple[Person, ...]


class Infer(Protocol):
    """Runs the networks and returns the persons of each frame."""

    def __call__(self, frames: Sequence[InferenceInput], *, alone: bool) -> Sequence[InferenceResult]:
        """alone: no other call is running, so this one may use all processors."""


class Stages:
    """Processes jobs; several runners call it at the same time."""

    def __init__(
        self, infer: Infer, decoders: Executor | None, *, max_pixels: int, skeleton: Skeleton = COCO
    ) -> None:
        """decoders: for batches; without them, and for a job that comes alone, the runner decodes.

        max_pixels: of an image. skeleton: of the persons that are drawn.
        """
        self._infer, self._decoders, self._max_pixels = infer, decoders, max_pixels
        self._skeleton = skeleton
        self._memory = PixelMemory(_DECODED_IMAGES * max_pixels)
        self._running, self._counting = 0, Lock()

    def run(self, jobs: Sequence[Job]) -> list[Done | PoseError]:
        """A result or a failure for each job. Raises the exceptions of `infer`.

        At most the memory of _DECODED_IMAGES images of the largest size is used by all calls together.
        """
        pixels = [self._pixels(job) for job in jobs]
        total = sum(each for each in pixels if isinstance(each, int))
        if total > self._memory.total and len(jobs) > 1:
            half = len(jobs) // 2
            return [*self.run(jobs[:half]), *self.run(jobs[half:])]
        self._count(1)
        try:
            with self._memory.room(total):
                return self._run(jobs, pixels)
        finally:
            self._count(-1)

    def _run(self, jobs: Sequence[Job], pixels: Sequence[int | PoseError]) -> list[Done | PoseError]:
        begun = perf_counter()
        each_of = map if self._decoders is None or len(jobs) == 1 else self._decoders.map
        found: list[InferenceInput | _Found | PoseError] = [*each_of(_frame, jobs, pixels)]
        decoded = perf_counter()
        frames = [each for each in found if isinstance(each, InferenceInput)]
        estimates = self._infer(frames, alone=self._running == 1) if frames else ()
        if len(estimates) != len(frames):
            raise RuntimeError(f"{len(estimates)} results of {len(frames)} frames")
        each_estimate = iter(estimates)
        done: list[Done | PoseError] = []
        for job, each in zip(jobs, found, strict=True):
            match each:
                case InferenceInput(image):
                    done.append(self._done(job, image, next(each_estimate), begun, decoded))
                case _Found(image, persons):
                    estimate = InferenceResult(persons, crops=0, detect=0, pose=0)
                    done.append(self._done(job, image, estimate, begun, decoded))
                case PoseError():
                    done.append(each)
        return done

    def _pixels(self, job: Job) -> int | PoseError:
        """The number of pixels from the header, or the error of the image."""
        try:
            width, height = read_size(job.picture, self._max_pixels)
        except PoseError as error:
            return error
        return width * height

    def _done(self, job: Job, image: Image, estimate: InferenceResult, begun: float, decoded: float) -> Done:
        height, width = image.shape[:2]
        drawing = draw(image, estimate.persons, self._skeleton) if job.drawn else b""
        return Done(width, height, estimate, begun, decoded, drawing)

    def _count(self, change: int) -> None:
        with self._counting:
            self._running += change


def _frame(job: Job, pixels: int | PoseError) -> InferenceInput | _Found | PoseError:
    """The decoded image, with its persons if they are known, or its error."""
    if isinstance(pixels, PoseError):
        return pixels
    try:
        image = decode(job.picture, job.options.rotate)
        known = job.known(image)
    except PoseError as error:
        return error
    return _Found(image, known) if isinstance(known, tuple) else InferenceInput(image, job.options, known)
