"""A stream with a live line of its pace."""

import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from lgm_pose_client.credentials import Credentials
from lgm_pose_client.frames import Answer, Policy, StreamConfig, StreamFrame
from lgm_pose_client.grpc import AsyncGrpcClient
from lgm_pose_client.recording import AnnotatedVideo, open_annotated
from lgm_pose_client.sources import eager, open_source, paced
from lgm_pose_client.types import Poses

_RECENT = 300  # answers whose latencies the line tells of


class Pace:
    """Frames a second and latencies of a stream, on a line of standard error."""

    def __init__(self, length: int | None) -> None:
        self._bar = tqdm(total=length, unit="frame")
        self._sent: dict[int, float] = {}
        self._latencies: deque[float] = deque(maxlen=_RECENT)

    def sent(self, frame: StreamFrame) -> None:
        """A frame is about to be sent."""
        self._sent[frame.frame_id] = time.perf_counter()

    def answered(self, answer: Answer) -> None:
        """Tell of an answer."""
        seconds = time.perf_counter() - self._sent.pop(answer.frame_id)
        if isinstance(answer.outcome, Poses):
            self._latencies.append(seconds)
        counts = answer.counts
        shown: dict[str, object] = {"dropped": counts.dropped, "errors": counts.errors}
        if len(self._latencies) > 1:
            percentiles = statistics.quantiles(self._latencies, n=100, method="inclusive")
            p50, p99 = 1000 * percentiles[49], 1000 * percentiles[98]
            shown = {"p50": f"{p50:.0f} ms", "p99": f"{p99:.0f} ms", **shown}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()


async def run_stream(
    name: str,
    address: str,
    config: StreamConfig,
    *,
    credentials: Credentials,
    video: Path | None,
    lines: Path | None,
) -> None:
    """Stream a source to its end, or until interrupted; write an annotated video and answers as JSON lines.

    Raises ServiceError, and ValueError for what cannot be opened.
    """
    source = open_source(name)
    with ExitStack() as stack:
        listeners: list[Pace | AnnotatedVideo] = [Pace(source.length)]
        if video is not None:
            listeners.append(open_annotated(video))
        for listener in listeners:
            stack.callback(listener.close)
        out = stack.enter_context(lines.open("w")) if lines is not None else None

        async def frames() -> AsyncIterator[StreamFrame]:
            async for frame in paced(source) if config.policy is Policy.LATEST else eager(source):
                for listener in listeners:
                    listener.sent(frame)
                yield frame

        async with AsyncGrpcClient(address, credentials=credentials) as client:
            async for answer in client.stream(frames(), config):
                for listener in listeners:
                    listener.answered(answer)
                if out is not None:
                    out.write(answer.json() + "\n")
