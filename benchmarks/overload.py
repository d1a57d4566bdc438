"""What is left of the service when five times more is asked than it can do: `python -m benchmarks.overload`.

First its peak: clients that wait for their answers, in rising numbers, until more of them get no more done.
Then requests leave at a fixed rate whatever comes back, and the peak is measured again, as machines drift.
Prints JSON: goodput under overload as a share of the peak, the time to be refused, the time to be answered.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import grpc
import numpy as np

from benchmarks.rounds import ROOT, WEIGHTS, machine
from service.pb import pose_pb2, pose_pb2_grpc
from tests.conftest import Service

CLIENTS = (4, 16, 48)  # below POSE_MAX_IMAGES: none is refused
PHOTO = ROOT / "examples" / "astronaut.jpg"
GOOD, REFUSED = ("200", "OK"), ("429", "RESOURCE_EXHAUSTED")
Ask = Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Outcome:
    """A request: its status, the seconds it took, and the moment of its answer."""

    status: str
    seconds: float
    end: float


@asynccontextmanager
async def rest(service: Service, image: bytes) -> AsyncIterator[Ask]:
    """A connection for each request, by hand: a client that costs more than the service measures itself."""
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /v1/poses HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image

    async def ask() -> str:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            with closing(writer):
                writer.write(request)
                answer = await reader.read()
        except OSError as error:
            return type(error).__name__
        return answer[9:12].decode() or "no answer"

    yield ask


@asynccontextmanager
async def rpc(service: Service, image: bytes) -> AsyncIterator[Ask]:
    request = pose_pb2.EstimateRequest(image=image)
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        stub = pose_pb2_grpc.PoseServiceStub(channel)

        async def ask() -> str:
            code: grpc.StatusCode = await stub.Estimate(request, timeout=120).code()
            return code.name

        yield ask


APIS = {"rest": rest, "grpc": rpc}


async def timed(ask: Ask) -> Outcome:
    start = perf_counter()
    status = await ask()
    end = perf_counter()
    return Outcome(status, end - start, end)


async def closed_loop(ask: Ask, clients: int, seconds: float) -> float:
    """Good answers a second to clients that each wait before they ask again."""
    start = perf_counter()

    async def client() -> int:
        good = 0
        while perf_counter() < start + seconds:
            good += (await timed(ask)).status in GOOD
        return good

    good = sum(await asyncio.gather(*(client() for _ in range(clients))))
    return good / (perf_counter() - start)


async def open_loop(ask: Ask, rate: float, seconds: float) -> tuple[list[Outcome], float]:
    """Every outcome of `rate` requests a second, and by how much they left too late at the worst."""
    start, late = perf_counter(), 0.0
    asked = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - perf_counter()))
        late = max(late, perf_counter() - due)
        asked.append(asyncio.create_task(timed(ask)))
    return await asyncio.gather(*asked), late


async def peak(ask: Ask, seconds: float) -> dict[int, float]:
    """Good answers a second by the number of clients."""
    return {clients: await closed_loop(ask, clients, seconds) for clients in CLIENTS}


def milliseconds(outcomes: Sequence[Outcome], statuses: Sequence[str]) -> dict[str, float]:
    """Median, 99th percentile and longest of the requests of these statuses."""
    found = [1000 * each.seconds for each in outcomes if each.status in statuses]
    if not found:
        return {}
    quantiles = np.quantile(found, (0.5, 0.99, 1))
    return {name: round(float(q), 2) for name, q in zip(("p50", "p99", "max"), quantiles, strict=True)}


async def measure(service: Service, api: str, times: float, seconds: float) -> dict[str, Any]:
    """All figures of one protocol."""
    async with APIS[api](service, PHOTO.read_bytes()) as ask:
        before = await peak(ask, seconds / 6)
        capacity = max(before.values())
        start = perf_counter()
        outcomes, late = await open_loop(ask, times * capacity, seconds)
        after = await peak(ask, seconds / 6)
    good = [each for each in outcomes if each.status in GOOD and each.end < start + seconds]
    best = (capacity + max(after.values())) / 2
    return {
        "peak_before": before,
        "peak_after": after,
        "offered_per_second": times * capacity,
        "seconds": seconds,
        "goodput_per_second": len(good) / seconds,
        "goodput_of_peak": len(good) / seconds / best,
        "statuses": {s: sum(e.status == s for e in outcomes) for s in sorted({e.status for e in outcomes})},
        "refused_ms": milliseconds(outcomes, REFUSED),
        "answered_ms": milliseconds(outcomes, GOOD),
        "left_late_ms": round(1000 * late, 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of overload [%(default)s]")
    parser.add_argument("--times", type=float, default=5, help="the peak that is offered [%(default)s]")
    parser.add_argument("--api", choices=APIS, nargs="+", default=list(APIS))
    parser.add_argument("--worker", choices=("thread", "process"), default="thread")
    chosen = parser.parse_args(arguments)
    service = Service(weights=WEIGHTS, worker=chosen.worker)
    try:
        found = {api: asyncio.run(measure(service, api, chosen.times, chosen.seconds)) for api in chosen.api}
    finally:
        service.close()
    print(json.dumps({"machine": machine(), "worker": chosen.worker, "apis": found}, indent=1))


if __name__ == "__main__":
    main()
