"""The service under five times the load that it can process: `python -m benchmarks.overload`.

First it measures the peak rate, with rising numbers of clients that wait for their answers. Then it sends
requests at a fixed rate without waiting for answers, and measures the peak again, because machines drift.
Prints JSON: goodput under overload as a share of the peak, latencies of refusals and of answers, and the CPU
time per request of the client and the service, which share the machine.
"""

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import grpc
import numpy as np
import psutil
import uvloop

from benchmarks.load import HttpClient, UnaryClient, cpu_seconds, under_load
from benchmarks.rounds import ROOT, WEIGHTS, machine
from service.wire.pb import pose_pb2
from tests.support.service import Service

CLIENTS = (4, 16, 48)  # below POSE_MAX_IMAGES, so none is refused
PHOTO = ROOT / "examples" / "astronaut.jpg"
GOOD, REFUSED = ("200", "OK"), ("429", "RESOURCE_EXHAUSTED")
Ask = Callable[[], Awaitable[str]]
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """A request: its status, its latency in seconds, and the time of its answer."""

    status: str
    seconds: float
    end: float


class Connection(asyncio.Protocol):
    """A minimal HTTP client on a kept connection, because a library takes as much CPU time as the service."""

    def __init__(self) -> None:
        self._answer = b""
        self._status: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    async def ask(self, request: bytes) -> str:
        self._answer, self._status = b"", asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return (await self._status).decode()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if end and (length := _LENGTH.search(head)) and len(body) >= int(length[1]):
            self._settle(head[9:12])

    def connection_lost(self, _: object) -> None:
        self.lost = True
        self._settle(b"connection lost")

    def _settle(self, status: bytes) -> None:
        if not self._status.done():
            self._status.set_result(status)


@asynccontextmanager
async def rest(service: Service, image: bytes) -> AsyncIterator[Ask]:
    """Sends over the free connection used last; opens another one if none is free."""
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /v1/poses HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
    request = f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image
    free: list[Connection] = []

    async def ask() -> str:
        while free and free[-1].lost:
            free.pop()
        try:
            loop = asyncio.get_running_loop()
            used = free.pop() if free else (await loop.create_connection(Connection, host, int(port)))[1]
        except OSError as error:
            return type(error).__name__
        status = await used.ask(request)
        free.append(used)
        return status

    yield ask
    for each in free:
        each.transport.close()


@asynccontextmanager
async def rpc(service: Service, image: bytes) -> AsyncIterator[Ask]:
    """Calls over one connection, with messages as bytes."""
    request = pose_pb2.EstimateRequest(image=image).SerializeToString()
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        estimate = channel.unary_unary("/pose.v1.PoseService/Estimate")

        async def ask() -> str:
            code: grpc.StatusCode = await estimate(request, timeout=120).code()
            return code.name

        yield ask


APIS = {"rest": rest, "grpc": rpc}


async def timed(ask: Ask) -> Outcome:
    start = perf_counter()
    status = await ask()
    end = perf_counter()
    return Outcome(status, end - start, end)


async def open_loop(
    service: Service, api: str, rate: float, seconds: float
) -> tuple[list[Outcome], float, float]:
    """The outcomes of `rate` requests a second, the start time, and the largest delay of a request."""
    async with APIS[api](service, PHOTO.read_bytes()) as ask:
        start, late = perf_counter(), 0.0
        asked = []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - perf_counter()))
            late = max(late, perf_counter() - due)
            asked.append(asyncio.create_task(timed(ask)))
        return await asyncio.gather(*asked), start, late


def peak(service: Service, api: str, seconds: float) -> dict[int, float]:
    """Good answers per second by the number of clients, which wait for each answer."""
    image = PHOTO.read_bytes()
    clients: dict[str, Callable[[], Any]] = {
        "rest": partial(HttpClient, f"{service.url}/v1/poses", image),
        "grpc": partial(UnaryClient, service.grpc, image),
    }
    process = psutil.Process(service.process.pid)
    return {number: under_load(clients[api], number, seconds, process)["per_second"] for number in CLIENTS}


def milliseconds(outcomes: Sequence[Outcome], statuses: Sequence[str]) -> dict[str, float]:
    """Median, 99th percentile and maximum latency of the requests with these statuses."""
    found = [1000 * each.seconds for each in outcomes if each.status in statuses]
    if not found:
        return {}
    quantiles = np.quantile(found, (0.5, 0.99, 1))
    return {name: round(float(q), 2) for name, q in zip(("p50", "p99", "max"), quantiles, strict=True)}


def measure(service: Service, api: str, times: float, seconds: float) -> dict[str, Any]:
    """The figures of one protocol."""
    process = psutil.Process(service.process.pid)
    before = peak(service, api, seconds / 6)
    capacity = max(before.values())
    used = [process_time(), cpu_seconds(process)]
    outcomes, start, late = uvloop.run(open_loop(service, api, times * capacity, seconds))
    used = [process_time() - used[0], cpu_seconds(process) - used[1]]
    after = peak(service, api, seconds / 6)
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
        "client_cpu_ms": round(1000 * used[0] / len(outcomes), 3),
        "service_cpu_ms": round(1000 * used[1] / len(outcomes), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="seconds of overload [%(default)s]")
    parser.add_argument(
        "--times", type=float, default=5, help="offered rate as a multiple of the peak [%(default)s]"
    )
    parser.add_argument("--api", choices=APIS, nargs="+", default=list(APIS))
    parser.add_argument("--worker", choices=("thread", "process"), default="thread")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="[%(default)s]")
    chosen = parser.parse_args(arguments)
    service = Service(weights=chosen.weights, worker=chosen.worker)
    try:
        found = {api: measure(service, api, chosen.times, chosen.seconds) for api in chosen.api}
    finally:
        service.close()
    print(json.dumps({"machine": machine(), "worker": chosen.worker, "apis": found}, indent=1))


if __name__ == "__main__":
    main()
