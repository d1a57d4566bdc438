"""Where frames come from: video files, cameras, folders of pictures."""

import asyncio
import struct
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from lgm_pose_client.clock import RecordingClock
from lgm_pose_client.frames import Policy, StreamFrame
from lgm_pose_client.pictures import encode, turned

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

#: Suffixes of pictures in a folder, in lower case; what the service cannot read it refuses by name.
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif", ".heic"}
_WEBCAM = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
_TIMEOUT_S = 10.0  # without a byte from a camera
_USUAL_RATE = 25  # frames a second, where a recording does not say
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0

Report: TypeAlias = Callable[[str], object]


class Source:
    """Frames as encoded upright pictures, numbered from 0, with their times in seconds.

    live: they come at their own pace, whether they are read or not. length: how many there are, if known.
    gaps: how often a camera was lost and found again. damaged: how many frames could not be decoded.
    """

    def __init__(self, *, live: bool, length: int | None = None) -> None:
        self.live, self.length = live, length
        self.gaps = self.damaged = 0
        self._closed = threading.Event()

    @property
    def policy(self) -> Policy:
        """What fits the source: the newest frame of a camera, every frame of a recording."""
        return Policy.LATEST if self.live else Policy.ALL

    def __iter__(self) -> Iterator[StreamFrame]:
        """Every frame. Raises ValueError or OSError if one cannot be read."""
        raise NotImplementedError

    async def stream(self, policy: Policy | None = None) -> AsyncGenerator[StreamFrame, None]:
        """The frames for a stream of this policy; of the fitting policy, unless given.

        Under LATEST frames of a recording come at the times at which they were taken, and those of a camera
        that nobody asked for in time are left out. Under ALL every frame comes as soon as it is asked for.
        """
        latest = (policy or self.policy) is Policy.LATEST
        frames = _newest if latest and self.live else _paced if latest else _eager
        try:
            async for frame in frames(iter(self)):
                yield frame
        finally:
            self.close()

    def close(self) -> None:
        """Stop waiting for a lost camera."""
        self._closed.set()


class Pictures(Source):
    """The pictures of a folder, sorted by name."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError for a folder without pictures."""
        self._files = pictures_of(folder)
        super().__init__(live=False, length=len(self._files))

    def __iter__(self) -> Iterator[StreamFrame]:
        for index, file in enumerate(self._files):
            yield StreamFrame(index, file.read_bytes())


class Recording(Source):
    """A video file."""

    def __init__(self, container: "InputContainer") -> None:
        super().__init__(live=False, length=container.streams.video[0].frames or None)
        self._container = container

    def __iter__(self) -> Iterator[StreamFrame]:
        rate = self._container.streams.video[0].average_rate
        clock = RecordingClock(1 / float(rate) if rate else 1 / _USUAL_RATE)
        with self._container:
            for index, frame in enumerate(_decoded(self, self._container)):
                yield StreamFrame(index, _upright(frame), clock.tick(frame.time))


class Camera(Source):
    """A webcam or a network camera, which is opened again, after growing pauses, when it is lost."""

    def __init__(self, name: str, kind: str | None, *, once: bool, report: Report) -> None:
        """kind: FFmpeg's name of the device's format. Raises ValueError if it cannot be opened."""
        super().__init__(live=True)
        self._name, self._kind, self._once, self._report = name, kind, once, report
        self._container = _opened(name, kind)

    def __iter__(self) -> Iterator[StreamFrame]:
        index, start, taken = 0, time.monotonic(), 0.0
        while True:
            offset: float | None = None  # the camera's clock may start again with each connection
            with self._container:
                reason = "it ended"
                try:
                    for frame in _decoded(self, self._container):
                        now = time.monotonic() - start
                        if frame.time is not None and offset is None:
                            offset = now - frame.time
                        taken = max(taken, now if offset is None else frame.time + offset)
                        yield StreamFrame(index, _upright(frame), taken)
                        index += 1
                except OSError as error:
                    reason = f"it was lost: {error}"
                    if self._once:
                        raise ValueError(f"{self._name}: {reason}") from error
            if self._once or not self._open_again(reason):
                return

    def _open_again(self, reason: str) -> bool:
        """Open the camera when it is available again. Returns False if the source is closed first."""
        self.gaps += 1
        pause = _FIRST_PAUSE_S
        while True:
            self._report(f"{self._name}: {reason}; opening it again in {pause:g} s (gap {self.gaps})")
            if self._closed.wait(pause):
                return False
            try:
                self._container = _opened(self._name, self._kind)
                return True
            except ValueError as error:
                reason = str(error).removeprefix(f"{self._name}: ")
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def open_source(name: str, *, once: bool = False, report: Report | None = None) -> Source:
    """The frames of a webcam's number, a video file, an rtsp:// or http(s):// URL, or a folder of pictures.

    once: a camera that is lost ends the source; else it is opened again. report: gets a line for each gap.
    Raises ValueError when there is no such thing, or PyAV, which all but folders need, is not installed.
    """
    path = Path(name)
    if path.is_dir():
        return Pictures(path)
    kind = None
    if name.isdigit():
        if sys.platform not in _WEBCAM:
            raise ValueError(f"webcams are not supported on {sys.platform}: give a URL")
        place, kind = _WEBCAM[sys.platform]
        name = place.format(name)
    elif path.is_file() or _is_recording(name):
        return Recording(_opened(name))
    elif "://" not in name:
        raise ValueError(f"{name}: neither a file, nor a folder, nor a URL, nor a webcam's number")
    return Camera(name, kind, once=once, report=report or (lambda line: None))


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name. Raises ValueError if there is none."""
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ValueError(f"{folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def _is_recording(name: str) -> bool:
    """Whether a URL names a file: it has a length, and its server sends it as fast as it is read."""
    if urlsplit(name).scheme not in ("http", "https"):
        return False
    with _opened(name) as container:
        return container.duration is not None


def _opened(name: str, kind: str | None = None) -> "InputContainer":
    try:
        import av
    except ImportError:
        raise ValueError("videos and cameras need PyAV: pip install 'lgm-pose-client[video]'") from None
    options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
    try:
        container = av.open(name, "r", format=kind, options=options, timeout=_TIMEOUT_S)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name}: cannot be opened: {error}") from error
    if not container.streams.video:
        container.close()
        raise ValueError(f"{name}: has no pictures")
    return container


def _decoded(source: Source, container: "InputContainer") -> Iterator["VideoFrame"]:
    """Every frame that can be decoded; the others are counted. Raises OSError if reading fails."""
    from av import FFmpegError

    stream = container.streams.video[0]
    for packet in chain(_packets(container), [None]):  # None: what the decoder holds back
        try:
            yield from stream.codec_context.decode(packet)
        except FFmpegError:
            source.damaged += 1


def _packets(container: "InputContainer") -> Iterator["Packet[VideoStream]"]:
    """The packets of the pictures, without empty ones, which would end the decoder. Raises OSError."""
    from av import FFmpegError
    from av.error import ExitError

    try:
        yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)
    except ExitError as error:  # the time limit of `_opened`
        raise OSError(f"no data for {_TIMEOUT_S:g} s") from error
    except FFmpegError as error:
        raise OSError(str(error)) from error


def _upright(frame: "VideoFrame") -> bytes:
    """The frame as a JPEG, turned and mirrored as its display matrix says."""
    return encode(turned(frame.to_image(), _orientation(frame)))


def _orientation(frame: "VideoFrame") -> int:
    """The EXIF orientation that means the same as the frame's display matrix."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return {(False, False): 5, (True, False): 6, (True, True): 7, (False, True): 8}[c < 0, b < 0]
    return {(False, False): 1, (True, False): 2, (True, True): 3, (False, True): 4}[a < 0, d < 0]


async def _eager(frames: Iterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
    """Every frame, as soon as it is requested."""
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        yield frame


async def _paced(frames: Iterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
    """Every frame, not before the time at which it was taken."""
    loop = asyncio.get_running_loop()
    start: float | None = None
    async for frame in _eager(frames):
        if frame.timestamp is not None:
            start = loop.time() - frame.timestamp if start is None else start
            await asyncio.sleep(max(0.0, start + frame.timestamp - loop.time()))
        yield frame


async def _newest(frames: Iterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
    """Frames are read as they come; those that nobody asked for in time are left out."""
    newest: asyncio.Queue[StreamFrame | None] = asyncio.Queue(1)

    async def read() -> None:
        try:
            async for frame in _eager(frames):
                if newest.full():
                    newest.get_nowait()
                newest.put_nowait(frame)
        finally:
            if newest.full():
                newest.get_nowait()
            newest.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (frame := await newest.get()) is not None:
            yield frame
        await reader
    finally:
        reader.cancel()
