"""Streams a source and shows its rate on a status line."""

import asyncio
import statistics
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from lgm_pose_client.credentials import Credentials
from lgm_pose_client.frames import Answer, Policy, StreamConfig, StreamFrame
from lgm_pose_client.grpc import AsyncGrpcClient
from lgm_pose_client.outputs import check_outputs
from lgm_pose_client.recording import AnnotatedVideo, open_annotated
from lgm_pose_client.sources import Source, open_source, pictures_of
from lgm_pose_client.types import Poses

_RECENT = 300  # answers whose latencies the line shows


class Pace:
    """Frames a second and latencies of a stream, on a line of standard error."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._bar = tqdm(total=source.length, unit="frame")
        self._sent: dict[int, float] = {}
        self._latencies: deque[float] = deque(maxlen=_RECENT)

    def sent(self, frame: StreamFrame) -> None:
        """Record that a frame is sent now."""
        self._sent[frame.frame_id] = time.perf_counter()

    def answered(self, answer: Answer) -> None:
        """Count an answer."""
        seconds = time.perf_counter() - self._sent.pop(answer.frame_id)
        if isinstance(answer.outcome, Poses):
            self._latencies.append(seconds)
        counts = answer.counts
        shown: dict[str, object] = {"dropped": counts.dropped, "errors": counts.errors}
        if self._source.gaps:
            shown["gaps"] = self._source.gaps
        if len(self._latencies) > 1:
            percentiles = statistics.quantiles(self._latencies, n=100, method="inclusive")
            p50, p99 = 1000 * percentiles[49], 1000 * percentiles[98]
            shown = {"p50": f"{p50:.0f} ms", "p99": f"{p99:.0f} ms", **shown}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Close the line and report damaged frames."""
        self._bar.close()
        if self._source.damaged:
            say(f"{self._source.damaged} frames are damaged and were not sent")


def say(line: str) -> None:
    """Write a line to standard error, over the line of the pace."""
    tqdm.write(line, file=sys.stderr)


async def run_stream(
    name: str,
    address: str,
    config: StreamConfig,
    policy: Policy | None,
    *,
    credentials: Credentials,
    once: bool,
    video: Path | None,
    lines: Path | None,
) -> None:
    """Stream a source to its end, or until interrupted; write an annotated video and answers as JSON lines.

    name, once: see `open_source`. policy: the one that fits the source, unless given. Raises ServiceError;
    ValueError for what cannot be opened.
    """
    check_outputs(_files(Path(name)), [path for path in (video, lines) if path is not None])
    source = await asyncio.to_thread(open_source, name, once=once, report=say)
    config = replace(config, policy=policy or source.policy)
    async with AsyncExitStack() as stack:
        stack.callback(source.close)
        client = await stack.enter_async_context(AsyncGrpcClient(address, credentials=credentials))
        listeners: list[Pace | AnnotatedVideo] = [Pace(source)]
        stack.callback(listeners[0].close)
        if video is not None:
            listeners.append(open_annotated(video, config.options.rotate, await client.skeleton()))
            stack.callback(listeners[1].close)
        out = stack.enter_context(lines.open("w")) if lines is not None else None

        async def frames() -> AsyncIterator[StreamFrame]:
            async with aclosing(source.stream(config.policy)) as stream:
                async for frame in stream:
                    for listener in listeners:
                        listener.sent(frame)
                    yield frame

        async for answer in client.stream(frames(), config):
            for listener in listeners:
                listener.answered(answer)
            if out is not None:
                out.write(answer.json() + "\n")


def _files(source: Path) -> list[Path]:
    """The files that a source reads."""
    return pictures_of(source) if source.is_dir() else [source]
