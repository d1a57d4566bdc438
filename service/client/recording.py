"""An annotated video of a stream."""

from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from service.core.drawing import draw_person
from service.core.image import decode
from service.errors import InvalidImage
from service.streaming.frames import Answer, StreamFrame
from service.types import Image, Person, Poses, TrackedPerson

if TYPE_CHECKING:
    from av.container import OutputContainer

_TICKS = 90_000  # a second
_UNTIMED_FPS = 25
_WHITE, _FONT = (255, 255, 255), cv2.FONT_HERSHEY_SIMPLEX


class AnnotatedVideo:
    """Frames with the skeletons and ids of their persons; a dropped frame shows those of the frame before."""

    def __init__(self, container: "OutputContainer") -> None:
        self._container = container
        self._frames: OrderedDict[int, StreamFrame] = OrderedDict()  # without an answer
        self._persons: tuple[Person, ...] = ()
        self._stream = container.add_stream("h264", rate=_UNTIMED_FPS, options={"crf": "23"})
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._first: float | None = None
        self._written = -1

    def sent(self, frame: StreamFrame) -> None:
        """Keep a frame until it is answered."""
        self._frames[frame.frame_id] = frame

    def answered(self, answer: Answer) -> None:
        """Draw and write the frame of an answer."""
        frame = self._frames.pop(answer.frame_id)
        if isinstance(answer.outcome, Poses):
            self._persons = answer.outcome.persons
        try:
            image = decode(frame.picture)
        except InvalidImage:
            return
        for person in self._persons:
            _annotate(image, person)
        self._write(image, frame)

    def close(self) -> None:
        """Write what the encoder holds back."""
        if self._written >= 0:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _write(self, image: Image, frame: StreamFrame) -> None:
        from av import VideoFrame

        height, width = (side - side % 2 for side in image.shape[:2])  # as yuv420p needs
        if self._written < 0:
            self._stream.width, self._stream.height = width, height
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="bgr24")
        picture.pts, picture.time_base = self._tick(frame), Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(picture))
        self._written = picture.pts

    def _tick(self, frame: StreamFrame) -> int:
        """A time later than those before."""
        time = frame.frame_id / _UNTIMED_FPS if frame.timestamp is None else frame.timestamp
        self._first = time if self._first is None else self._first
        return max(round((time - self._first) * _TICKS), self._written + 1)


def open_annotated(path: Path) -> AnnotatedVideo:
    """A new video file. Raises ValueError without PyAV, or where it cannot be written."""
    try:
        import av
    except ImportError:
        raise ValueError("annotated videos need PyAV: install lgm-pose[client]") from None
    try:
        return AnnotatedVideo(av.open(str(path), "w"))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be written: {error}") from error


def _annotate(image: Image, person: Person) -> None:
    draw_person(image, person)
    if isinstance(person, TrackedPerson):
        x1, y1, _, _ = person.bbox
        place = round(x1), max(12, round(y1) - 4)
        cv2.putText(image, str(person.track_id), place, _FONT, 0.5, _WHITE, 1, cv2.LINE_AA)
