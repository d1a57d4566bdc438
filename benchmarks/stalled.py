"""What a reader that stops costs the other cameras: `python -m benchmarks.stalled`.

Cameras send at a fixed rate: first alone, then next to a stream whose reader stops while its sender sends as
much as flow control allows. The latency of a camera is measured from sending a frame to its answer.
`held_frames` is the number of frames accepted from that sender, `mib` the growth of the service's memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import grpc
import numpy as np
import psutil

from benchmarks import rounds
from benchmarks.rounds import ROOT, WEIGHTS, Case, Figures
from lgm_pose_client import AsyncGrpcClient
from lgm_pose_client.frames import Policy, StreamConfig, StreamFrame
from lgm_pose_client.messages import config_message, frame_message
from lgm_pose_client.types import Poses
from service.wire.pb import pose_pb2_grpc
from tests.support.service import Service

PHOTO = (ROOT / "examples" / "astronaut.jpg").read_bytes()
# otherwise the client buffers messages for a reader that stops
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))


async def camera(address: str, rate: float, seconds: float) -> list[float]:
    """Latency in seconds of each frame that was estimated."""
    sent: dict[int, float] = {}

    async def frames() -> AsyncIterator[StreamFrame]:
        start = perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - perf_counter()))
            sent[number] = perf_counter()
            yield StreamFrame(number, PHOTO)

    async with AsyncGrpcClient(address) as client:
        return [
            perf_counter() - sent[answer.frame_id]
            async for answer in client.stream(frames(), StreamConfig())
            if isinstance(answer.outcome, Poses)
        ]


async def stalled(address: str, taken: list[int]) -> None:
    """Sends frames without end and reads nothing; counts in `taken` the frames that were accepted."""
    async with grpc.aio.insecure_channel(address, NARROW) as channel:
        call = pose_pb2_grpc.PoseServiceStub(channel).EstimateStream()
        await call.write(config_message(StreamConfig(policy=Policy.ALL)))
        while True:
            await call.write(frame_message(StreamFrame(taken[0], PHOTO)))
            taken[0] += 1


async def measure(service: Service, cameras: int, rate: float, seconds: float, *, stall: bool) -> Figures:
    """p50 and p99 of the cameras together, in milliseconds."""
    process = psutil.Process(service.process.pid)
    before, taken = process.memory_info().rss, [0]
    sender = asyncio.create_task(stalled(service.grpc, taken)) if stall else None
    last = -1
    while stall and taken[0] > last:  # until flow control holds it back
        last = taken[0]
        await asyncio.sleep(3)
    latencies = await asyncio.gather(*(camera(service.grpc, rate, seconds) for _ in range(cameras)))
    grown = process.memory_info().rss - before
    if sender is not None:
        sender.cancel()
        with suppress(asyncio.CancelledError):
            await sender
    p50, p99 = np.quantile(np.concatenate(latencies), (0.5, 0.99)) * 1000
    return {"p50_ms": float(p50), "p99_ms": float(p99), "mib": grown / 2**20, "held_frames": taken[0]}


def main(arguments: list[str] | None = None) -> None:
    parser = rounds.options("stalled", __doc__)
    parser.add_argument("--seconds", type=float, default=60, help="seconds of each measurement [%(default)s]")
    parser.add_argument("--cameras", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--fps", type=float, default=3, help="frames per second of each camera [%(default)s]")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="[%(default)s]")
    chosen = parser.parse_args(arguments)
    service = Service(weights=chosen.weights)

    def case(name: str, stall: bool) -> Case:
        given = chosen.cameras, chosen.fps, chosen.seconds
        return Case("cameras", {"next_to": name}, lambda: asyncio.run(measure(service, *given, stall=stall)))

    try:
        rows = rounds.interleaved([case("nobody", False), case("a stalled reader", True)], chosen.rounds)
    finally:
        service.close()
    rounds.write(
        chosen.out, chosen.rounds, rows, cameras=chosen.cameras, fps=chosen.fps, seconds=chosen.seconds
    )


if __name__ == "__main__":
    main()
