"""Frames of video files, by PyAV, which is an extra."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from importlib.util import find_spec
from operator import sub
from typing import TYPE_CHECKING, BinaryIO, cast

from service.core.image import turn
from service.errors import ImageTooLarge, InvalidVideo, NotInstalled
from service.streaming.frames import StreamFrame
from service.types import Image, RawImage

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.sidedata.sidedata import SideData

_MAX_RATE = 240  # frames a second
_FRAME_S = 0.04  # of a file without timestamps
_JUMP_S, _JUMP_FRAMES = 10, 10  # a step between frames that is longer than both is a jump of the clock
# self-contained formats only: a playlist would have the service fetch what it names
_OPTIONS = {"format_whitelist": "mov,matroska,avi,mpegts,mpeg,ogg,flv", "protocol_whitelist": "none"}
_HIDDEN_FRAMES = {"vp8"}  # codecs whose streams have packets that are decoded and not shown


def check_installed() -> None:
    """Raises NotInstalled if PyAV is missing."""
    if find_spec("av") is None:
        raise NotInstalled("videos need PyAV: install lgm-pose[video]")


def open_video(file: BinaryIO, *, max_seconds: float, max_pixels: int) -> "Video":
    """Open a video file, which must stay open, and measure it: its packets are read, none is decoded.

    Raises NotInstalled; InvalidVideo for a file that is not a video; ImageTooLarge where it has more seconds
    or pixels than it may.
    """
    with _open(file) as container:
        context = container.streams.video[0].codec_context
        _check_pixels(context.width, context.height, max_pixels)
        times = _packet_times(container, max_seconds)
    steps = sorted(step for step in map(sub, times[1:], times) if step > 0)
    frame_s = steps[len(steps) // 2] if steps else _FRAME_S
    clock = _Clock(frame_s, max_seconds)
    for time in times:
        clock.tick(time)
    file.seek(0)
    return Video(_open(file), _Clock(frame_s, max_seconds), max_pixels)


class Video(Iterator[StreamFrame]):
    """The frames of a video, upright, numbered from 0; their timestamps are seconds since the first one.

    Frames that cannot be decoded are left out; `lost` is their number, once all others are read. Raises
    InvalidVideo where no frame can be decoded or reading fails; ImageTooLarge.
    """

    def __init__(self, container: "InputContainer", clock: "_Clock", max_pixels: int) -> None:
        """Takes over the container."""
        self.lost = 0
        self._container, self._clock, self._max_pixels = container, clock, max_pixels
        self._frames = self._numbered()

    def __next__(self) -> StreamFrame:
        """The next frame."""
        return next(self._frames)

    def _numbered(self) -> Iterator[StreamFrame]:
        from av import FFmpegError

        time_base = self._container.streams.video[0].time_base
        index, time = 0, 0.0
        with self._container:
            try:
                for frame in self._decoded():
                    time = self._clock.tick(_seconds(frame.pts, time_base))
                    _check_pixels(frame.width, frame.height, self._max_pixels)
                    yield StreamFrame(index, _upright(frame), round(time, 6))
                    index += 1
            except FFmpegError as error:
                raise InvalidVideo(f"the video is damaged after {time:.1f} s") from error
        if not index:
            raise InvalidVideo("no frame of the video can be decoded")

    def _decoded(self) -> Iterator["VideoFrame"]:
        """Every frame that can be decoded. Raises FFmpegError, after them, if reading fails."""
        from av import FFmpegError

        stream = self._container.streams.video[0]
        packets = frames = refused = 0
        failure: Exception | None = None

        def decode(packet: "Packet[VideoStream] | None") -> Iterator["VideoFrame"]:
            nonlocal frames, refused
            try:
                for frame in stream.codec_context.decode(packet):
                    frames += 1
                    yield frame
            except FFmpegError:
                refused += 1

        try:
            for packet in _packets(self._container):
                packets += 1
                yield from decode(packet)
        except FFmpegError as error:
            failure = error
        yield from decode(None)  # those that the decoder held back
        # a decoder that waits for the next key frame refuses nothing; the index of a file that is cut off
        # names more frames than it has
        silent = 0 if stream.codec_context.name in _HIDDEN_FRAMES else max(packets, stream.frames) - frames
        self.lost = max(refused, silent)
        if failure is not None:
            raise failure


class _Clock:
    """Seconds since the first frame of a video. A jump of the file's own clock counts as one frame."""

    def __init__(self, frame_s: float, max_seconds: float) -> None:
        """frame_s: seconds between frames, usually."""
        self._frame_s, self._max_seconds = frame_s, max_seconds
        self._jump_s = max(_JUMP_S, _JUMP_FRAMES * frame_s)
        self._elapsed = 0.0
        self._ticks = 0
        self._last: float | None = None

    def tick(self, time: float | None) -> float:
        """The seconds at the next frame, whose timestamp is `time`. Raises ImageTooLarge past the limit."""
        step = self._frame_s
        if time is not None and self._last is not None and 0 <= time - self._last <= self._jump_s:
            step = time - self._last
        self._elapsed += step if self._ticks else 0.0
        self._ticks += 1
        self._last = time
        if max(self._elapsed, self._ticks / _MAX_RATE) > self._max_seconds:
            raise _too_long(self._max_seconds)
        return self._elapsed


def _packet_times(container: "InputContainer", max_seconds: float) -> list[float]:
    """The times of the packets in the order of decoding. Raises ImageTooLarge if they are too many."""
    from av import FFmpegError

    time_base = container.streams.video[0].time_base
    times: list[float] = []
    with suppress(FFmpegError):  # the error occurs again after the frames before it are decoded
        for packet in _packets(container):
            time = _seconds(packet.dts, time_base)
            times.append((times[-1] + _FRAME_S if times else 0.0) if time is None else time)
            if len(times) > max_seconds * _MAX_RATE:
                raise _too_long(max_seconds)
    return times


def _too_long(max_seconds: float) -> ImageTooLarge:
    return ImageTooLarge(f"the video is longer than {max_seconds:g} s")


def _open(file: BinaryIO) -> "InputContainer":
    """Raises NotInstalled or InvalidVideo."""
    check_installed()
    import av

    try:
        container = av.open(file, "r", options=_OPTIONS)
    except (av.FFmpegError, OSError) as error:
        raise InvalidVideo("the file is not a video of an accepted format") from error
    if not container.streams.video:
        container.close()
        raise InvalidVideo("the file has no pictures")
    return container


def _packets(container: "InputContainer") -> Iterator["Packet[VideoStream]"]:
    """The packets of the pictures, without empty ones, which would end the decoding."""
    return (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def _seconds(timestamp: int | None, time_base: Fraction | None) -> float | None:
    return None if timestamp is None or time_base is None else float(timestamp * time_base)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width} x {height} pixels are more than {max_pixels}")


def _orientation(frame: "VideoFrame") -> int:
    """The EXIF orientation that says the same as the frame's display matrix."""
    matrix = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if matrix is None:
        return 1
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[c < 0, b < 0]
    return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]


def _upright(frame: "VideoFrame") -> RawImage:
    pixels = turn(cast(Image, frame.to_ndarray(format="bgr24")), _orientation(frame))
    height, width = pixels.shape[:2]
    return RawImage(pixels.data.cast("B"), width, height)
