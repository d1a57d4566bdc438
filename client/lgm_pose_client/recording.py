"""An annotated video of a stream."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lgm_pose_client.drawing import draw_person
from lgm_pose_client.frames import Answer, StreamFrame
from lgm_pose_client.pictures import decode
from lgm_pose_client.types import Person, Poses, Skeleton

if TYPE_CHECKING:
    from av.container import OutputContainer

_TICKS = 90_000  # a second
_UNTIMED_FPS = 25


class AnnotatedVideo:
    """Frames with the skeletons and ids of their persons; a dropped frame shows those of the frame before it.

    rotate: degrees by which the service turns the frames, clockwise; the video shows them so.
    """

    def __init__(self, container: "OutputContainer", rotate: int, skeleton: Skeleton) -> None:
        self._container, self._rotate, self._skeleton = container, rotate, skeleton
        self._frames: dict[int, StreamFrame] = {}  # without an answer
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
        assert isinstance(frame.picture, bytes)
        try:
            image = decode(frame.picture, self._rotate)
        except ValueError:
            return
        for person in self._persons:
            draw_person(image, person, self._skeleton)
        self._write(image, frame)

    def close(self) -> None:
        """Write what the encoder holds back."""
        if self._written >= 0:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _write(self, image: Image.Image, frame: StreamFrame) -> None:
        from av import VideoFrame

        if self._written < 0:  # even sides, as yuv420p needs
            self._stream.width, self._stream.height = (max(2, side - side % 2) for side in image.size)
        size = self._stream.width, self._stream.height
        odd = max(a - b for a, b in zip(image.size, size, strict=True)) <= 1 and image.width >= size[0]
        fitted = image.crop((0, 0, *size)) if odd else image.resize(size)
        picture = VideoFrame.from_image(fitted)
        picture.pts, picture.time_base = self._tick(frame), Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(picture))
        self._written = picture.pts

    def _tick(self, frame: StreamFrame) -> int:
        """A time later than those before."""
        time = frame.frame_id / _UNTIMED_FPS if frame.timestamp is None else frame.timestamp
        self._first = time if self._first is None else self._first
        return max(round((time - self._first) * _TICKS), self._written + 1)


def open_annotated(path: Path, rotate: int, skeleton: Skeleton) -> AnnotatedVideo:
    """A new video file. Raises ValueError if PyAV is missing or the file cannot be written."""
    try:
        import av
    except ImportError:
        raise ValueError("annotated videos need PyAV: pip install 'lgm-pose-client[video]'") from None
    try:
        return AnnotatedVideo(av.open(str(path), "w"), rotate, skeleton)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be written: {error}") from error
