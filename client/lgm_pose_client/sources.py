"""Where frames come from: video files, cameras, folders of pictures."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from lgm_pose_client.frames import StreamFrame
from lgm_pose_client.pictures import encode

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_WEBCAM = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Source:
    """Frames as encoded pictures. live: they come at their own pace, whether they are read or not."""

    frames: Iterator[StreamFrame]
    live: bool
    length: int | None = None


def open_source(name: str) -> Source:
    """The frames of a webcam's number, a video file, an rtsp:// or http(s):// URL, or a folder of pictures.

    Raises ValueError when there is no such thing, or PyAV, which all but folders need, is not installed.
    """
    path = Path(name)
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        return Source(_pictures(pictures), live=False, length=len(pictures))
    try:
        if name.isdigit():
            place, kind = _WEBCAM[sys.platform]
            return Source(_decoded(place.format(name), kind), live=True)
        if "://" in name:
            return Source(_decoded(name), live=True)
        if path.is_file():
            return Source(_decoded(name), live=False)
    except KeyError:
        raise ValueError(f"webcams are not known on {sys.platform}: give a URL") from None
    raise ValueError(f"{name}: neither a file, nor a folder, nor a URL, nor a webcam's number")


async def paced(source: Source) -> AsyncIterator[StreamFrame]:
    """Frames of a recording at the times at which they were taken; of a live source, the newest each time."""
    if source.live:
        async for frame in _newest(source.frames):
            yield frame
        return
    loop = asyncio.get_running_loop()
    start: float | None = None
    async for frame in eager(source):
        if frame.timestamp is not None:
            start = loop.time() - frame.timestamp if start is None else start
            await asyncio.sleep(max(0.0, start + frame.timestamp - loop.time()))
        yield frame


async def eager(source: Source) -> AsyncIterator[StreamFrame]:
    """Every frame as soon as it is asked for."""
    while (frame := await asyncio.to_thread(next, source.frames, None)) is not None:
        yield frame


async def _newest(frames: Iterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
    """Frames are taken as they come, and those that nobody asked for in time are forgotten."""
    newest: asyncio.Queue[StreamFrame | None] = asyncio.Queue(1)

    async def read() -> None:
        try:
            while (frame := await asyncio.to_thread(next, frames, None)) is not None:
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


def _pictures(files: list[Path]) -> Iterator[StreamFrame]:
    for index, file in enumerate(files):
        yield StreamFrame(index, file.read_bytes())


def _decoded(name: str, kind: str | None = None) -> Iterator[StreamFrame]:
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
        raise ValueError(f"{name}: has no pictures")

    def frames() -> Iterator[StreamFrame]:
        with container:
            for index, frame in enumerate(container.decode(video=0)):
                yield StreamFrame(index, encode(frame.to_image()), frame.time)

    return frames()
