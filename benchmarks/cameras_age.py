"""How old a camera's frame is when its inference starts: `python -m benchmarks.cameras_age`.

1, 8 and 64 cameras under the policy LATEST, with a frame every 20 ms each, share one runner. Its networks
sleep, 10 ms a frame, so that the figures depend little on the machine. 64 cameras saturate the runner: a
round of all cameras takes 640 ms, and each camera has one frame answered in a round. The age is the time from
when a frame is sent to when the networks get it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.rounds import Case, Figures, interleaved, options, write
from service.core.batching import Batcher
from service.core.estimator import Estimator
from service.core.stages import Stages
from service.streaming.frames import StreamConfig, StreamFrame
from service.streaming.stream import Stream
from service.types import InferenceInput, InferenceResult, RawImage

CAMERAS = (1, 8, 64)
INTERVAL_S = 0.02  # between frames of a camera
FRAME_S = 0.01  # that the networks take for one


class SleepingNetworks:
    """Takes FRAME_S for each frame and notes how old it is, until the moment `end`."""

    def __init__(self, end: float) -> None:
        self.end = end
        self.sent: list[float] = []  # when each frame was sent, by its number
        self.ages: list[float] = []

    def __call__(self, frames: Sequence[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        now = time.monotonic()
        if now < self.end:  # afterwards there are no newer frames to choose
            self.ages += [
                now - self.sent[int.from_bytes(frame.image.tobytes(), "little")] for frame in frames
            ]
        time.sleep(FRAME_S * len(frames))
        return [InferenceResult((), crops=0, detect=0, pose=0) for _ in frames]

    def frame(self) -> StreamFrame:
        """A frame that is sent now; its pixels hold its number."""
        number = len(self.sent)
        self.sent.append(time.monotonic())
        return StreamFrame(number, RawImage(number.to_bytes(24, "little"), width=8, height=1))


async def camera(networks: SleepingNetworks, offset_s: float) -> AsyncIterator[StreamFrame]:
    """A frame every INTERVAL_S until the end."""
    due = time.monotonic() + offset_s
    while due < networks.end:
        await asyncio.sleep(due - time.monotonic())
        yield networks.frame()
        due = max(due + INTERVAL_S, time.monotonic())


async def ages(cameras: int, seconds: float) -> Figures:
    """Ages in milliseconds of frames at the start of their inference."""
    end = time.monotonic() + seconds
    networks = SleepingNetworks(end)
    with ThreadPoolExecutor(1) as decoders:
        batcher = Batcher(Stages(networks, decoders, max_pixels=1000).run)
        estimator = Estimator(batcher, max_images=1, max_pixels=1000, timeout_s=60, max_streams=cameras)

        async def watch(number: int) -> None:
            stream = Stream(estimator, StreamConfig(), api="benchmark", ident=str(number))
            async for _ in stream.answers(camera(networks, INTERVAL_S * number / cameras)):
                pass

        await asyncio.gather(*(watch(number) for number in range(cameras)))
        await batcher.close()
    p50, p99 = np.percentile(networks.ages, (50, 99))
    return {
        "age_p50_ms": round(1000 * float(p50), 1),
        "age_p99_ms": round(1000 * float(p99), 1),
        "frames_per_second": round(len(networks.ages) / seconds, 1),
    }


def main() -> None:
    parser = options("cameras_age", __doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each case in a round [%(default)s]")
    chosen = parser.parse_args()
    cases = [
        Case(str(cameras), {"cameras": cameras}, lambda n=cameras: asyncio.run(ages(n, chosen.seconds)))
        for cameras in CAMERAS
    ]
    rows = interleaved(cases, chosen.rounds)
    write(chosen.out, chosen.rounds, rows, seconds=chosen.seconds)


if __name__ == "__main__":
    main()
