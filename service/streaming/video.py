"""Frames of video files, by PyAV, which is an extra."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from service.errors import ImageTooLarge, InvalidVideo, NotInstalled
from service.streaming.frames import StreamFrame
from service.types import RawImage

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

_MAX_RATE = 240  # frames a second
# self-contained formats only: a playlist would have the service fetch what it names
_OPTIONS = {"format_whitelist": "mov,matroska,avi,mpegts,mpeg,ogg,flv", "protocol_whitelist": "none"}


def open_video(file: BinaryIO, *, max_seconds: float, max_pixels: int) -> Iterator[StreamFrame]:
    """The frames of a video file, upright, numbered from 0, with their times in seconds.

    The header is read at once, frames as they are asked for. Raises NotInstalled; InvalidVideo for a file
    that is not a video, or damaged; ImageTooLarge where it has more seconds or pixels than it may.
    """
    try:
        import av
    except ImportError:
        raise NotInstalled("videos need PyAV: install lgm-pose[video]") from None
    try:
        container = av.open(file, "r", options=_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        raise InvalidVideo("the file is not a video of a format that is taken") from error
    if not container.streams.video:
        raise InvalidVideo("the file has no pictures")
    if (container.duration or 0) > max_seconds * av.time_base:
        raise ImageTooLarge(f"the video is longer than {max_seconds:g} s")
    context = container.streams.video[0].codec_context
    _check_pixels(context.width, context.height, max_pixels)
    return _frames(container, max_seconds, max_pixels)


def _frames(container: "InputContainer", max_seconds: float, max_pixels: int) -> Iterator[StreamFrame]:
    from av import FFmpegError

    with container:
        try:
            first = None
            for index, frame in enumerate(container.decode(video=0)):
                time = index / _MAX_RATE if frame.time is None else frame.time
                first = time if first is None else first
                # a header may say less than the file holds
                if max(time - first, index / _MAX_RATE) > max_seconds:
                    raise ImageTooLarge(f"the video is longer than {max_seconds:g} s")
                _check_pixels(frame.width, frame.height, max_pixels)
                yield StreamFrame(index, _upright(frame), time)
        except FFmpegError as error:
            raise InvalidVideo("the video is damaged") from error


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width} x {height} pixels are more than {max_pixels}")


def _upright(frame: "VideoFrame") -> RawImage:
    pixels = np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90)
    height, width = pixels.shape[:2]
    return RawImage(np.ascontiguousarray(pixels).data.cast("B"), width, height)
