"""Frames per second of streams compared with the bare pipeline, in one run.

`python -m benchmarks.streams VIDEO` streams the frames of a video over gRPC to a service that it starts:
one camera with the detector on every frame and on one in five, and with unchanged frames skipped, then 1, 4
and 16 cameras together. A still camera sends the first frame all the time, each with other noise. Before and
after each case, the same frames go through the pipeline in a bare loop; the figures are ratios to it, medians
of the rounds. The accuracy lost by an option is the mean OKS between the poses with and without it.
"""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import rounds
from benchmarks.rounds import WEIGHTS
from lgm_pose_client import AsyncGrpcClient
from lgm_pose_client.frames import Answer, Policy, StreamConfig, StreamFrame
from lgm_pose_client.sources import open_source
from lgm_pose_client.types import Options, Person, Poses
from model.geometry import box_areas
from model.keypoints import oks
from service.core.image import decode
from service.inference.pipeline import Pipeline, open_pipeline
from service.types import InferenceInput
from tests.support.service import Service, encode

CAMERAS = (1, 4, 16)
DETECT_EVERY = 5
NOISE = 4  # standard deviation of a still camera's noise, of 255


def bare_loop(pipeline: Pipeline, frames: list[StreamFrame], options: Options) -> float:
    """Frames per second of decoding and the pipeline, one frame after the other."""
    start = perf_counter()
    for frame in frames:
        pipeline.run([InferenceInput(decode(frame.picture), options)])
    return len(frames) / (perf_counter() - start)


async def stream(address: str, frames: list[StreamFrame], config: StreamConfig) -> list[Answer]:
    """The answers to the frames over one stream."""

    async def camera() -> AsyncIterator[StreamFrame]:
        for frame in frames:
            yield frame

    async with AsyncGrpcClient(address) as client:
        return [answer async for answer in client.stream(camera(), config)]


def still_camera(frame: StreamFrame, count: int) -> list[StreamFrame]:
    """The frame `count` times as a JPEG, each with other noise."""
    picture, rng = decode(frame.picture), np.random.default_rng(0)
    noisy = (picture + rng.normal(0, NOISE, picture.shape) for _ in range(count))
    return [
        StreamFrame(number, encode(each.clip(0, 255).astype(np.uint8), ".jpg"))
        for number, each in enumerate(noisy)
    ]


async def together(address: str, frames: list[StreamFrame], config: StreamConfig, cameras: int) -> float:
    """Frames per second of several cameras that divide the frames among them."""
    shares = [frames[number::cameras] for number in range(cameras)]
    start = perf_counter()
    await asyncio.gather(*(stream(address, share, config) for share in shares))
    return len(frames) / (perf_counter() - start)


def agreement(reference: list[Answer], answers: list[Answer]) -> dict[str, float]:
    """Agreement of the persons of the answers with those of the reference."""
    best: list[float] = []
    counts = [0, 0]
    for one, other in zip(reference, answers, strict=True):
        if not isinstance(one.outcome, Poses) or not isinstance(other.outcome, Poses):
            continue
        counts[0] += len(one.outcome.persons)
        counts[1] += len(other.outcome.persons)
        best += _best_oks(one.outcome.persons, other.outcome.persons)
    return {
        "mean_oks": float(np.mean(best)) if best else 0.0,
        "found_of_reference": float(np.mean([value >= 0.5 for value in best])) if best else 0.0,
        "persons_ratio": counts[1] / max(counts[0], 1),
    }


def _best_oks(reference: tuple[Person, ...], persons: tuple[Person, ...]) -> list[float]:
    if not reference:
        return []
    if not persons:
        return [0.0] * len(reference)
    a, b = (np.array([each.keypoints for each in some], np.float32) for some in (reference, persons))
    areas = box_areas(np.array([each.bbox for each in reference], np.float32))
    return [float(value) for value in oks(a, b, areas).max(1)]


def ratio(run: Callable[[], float], bare: Callable[[], float], rounds: int) -> dict[str, float]:
    """Median frames per second of `run`, divided by those of the bare loop just before and after it."""
    ratios, rates = [], []
    before = bare()
    for _ in range(rounds):
        rate = run()
        after = bare()
        ratios.append(rate / ((before + after) / 2))
        rates.append(rate)
        before = after
    return {"times_bare": statistics.median(ratios), "frames_per_second": statistics.median(rates)}


def main() -> None:
    parser = rounds.options("streams", __doc__)
    parser.add_argument("video", help="a video file or a folder of pictures")
    parser.add_argument(
        "--frames", type=int, default=100, help="number of frames from the start of the video [%(default)s]"
    )
    parser.add_argument("--min-score", type=float, default=0.3, help="[%(default)s]")
    parser.add_argument("--threads", type=int, default=1, help="threads of a network [%(default)s]")
    chosen = parser.parse_args()
    frames = list(islice(open_source(chosen.video), chosen.frames))
    options = Options(chosen.min_score)
    plain = StreamConfig(options, Policy.ALL)
    every = StreamConfig(options, Policy.ALL, tracking=True)
    rare = StreamConfig(options, Policy.ALL, tracking=True, detect_every=DETECT_EVERY)
    skip = StreamConfig(options, Policy.ALL, tracking=True, skip_unchanged=True)
    still = still_camera(frames[0], len(frames))
    pipeline = open_pipeline(WEIGHTS, threads=chosen.threads)
    service = Service(weights=WEIGHTS, threads=chosen.threads)
    try:

        def measure(
            config: StreamConfig, cameras: int = 1, *, seen: list[StreamFrame] = frames
        ) -> dict[str, float]:
            return ratio(
                lambda: asyncio.run(together(service.grpc, seen, config, cameras)),
                lambda: bare_loop(pipeline, seen, options),
                chosen.rounds,
            )

        def kept(config: StreamConfig, seen: list[StreamFrame]) -> dict[str, float]:
            return agreement(*(asyncio.run(stream(service.grpc, seen, each)) for each in (every, config)))

        figures: dict[str, Any] = {
            "frames": len(frames),
            "one_camera": {
                "detector_on_every_frame": measure(every),
                f"detector_on_one_in_{DETECT_EVERY}": measure(rare),
                "unchanged_frames_skipped": measure(skip),
                "still,_detector_on_every_frame": measure(every, seen=still),
                "still,_unchanged_frames_skipped": measure(skip, seen=still),
            },
            "cameras_together": {str(cameras): measure(plain, cameras) for cameras in CAMERAS},
            "accuracy": {
                f"detector_on_one_in_{DETECT_EVERY}": kept(rare, frames),
                "unchanged_frames_skipped": kept(skip, frames),
                "still,_unchanged_frames_skipped": kept(skip, still),
            },
        }
    finally:
        service.close()
    rounds.write(chosen.out, chosen.rounds, [], **figures)


if __name__ == "__main__":
    main()
