"""The memory of the service under large uploads at the same time: `python -m benchmarks.uploads 200`.

Each client sends one image of the largest size allowed, half of them over HTTP and half over gRPC. The peak
is the resident memory of the process. Compose and Kubernetes allow 3 GiB, of which videos may take 512 MiB.
`--limit-mb 2560` makes the kernel enforce that limit, which needs root.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import psutil

from benchmarks.memory_cgroup import memory_group
from service.config import Settings
from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.networks import save_networks
from tests.support.service import ROOT, Service

LIMIT = 3 * 2**30 - 512 * 2**20


async def flood(service: Service, clients: int, image: bytes) -> tuple[Counter[str], int]:
    """The statuses of the clients, and the peak of the resident memory in bytes."""
    process, peak = psutil.Process(service.process.pid), 0

    async def watch() -> None:
        nonlocal peak
        while process.is_running():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    limits = httpx.Limits(max_connections=clients)
    async with (
        httpx.AsyncClient(base_url=service.url, timeout=300, limits=limits) as http,
        grpc.aio.insecure_channel(service.grpc) as channel,
    ):
        stub = pose_pb2_grpc.PoseServiceStub(channel)
        request = pose_pb2.EstimateRequest(image=image)

        async def post() -> str:
            headers = {"content-type": "image/jpeg"}
            try:
                return str((await http.post("/v1/poses", content=image, headers=headers)).status_code)
            except httpx.TransportError as error:
                return type(error).__name__

        async def call() -> str:
            return str((await stub.Estimate(request, timeout=300).code()).name)

        statuses = await asyncio.gather(*(post() if number % 2 else call() for number in range(clients)))
    watching.cancel()
    return Counter(statuses), peak


def main(arguments: Sequence[str] | None = None) -> None:
    """Print statuses and memory; exit with 1 above the limit, or if the kernel killed the service."""
    parser = argparse.ArgumentParser(prog="benchmarks.uploads", description=__doc__)
    parser.add_argument("clients", type=int, nargs="?", default=200, help="[%(default)s]")
    parser.add_argument("--limit-mb", type=int, help="MiB that the kernel allows the service")
    chosen = parser.parse_args(arguments)
    photo = (ROOT / "examples" / "astronaut.jpg").read_bytes()
    image = photo.ljust(Settings.model_fields["max_body_bytes"].default - 4096, b"\0")
    limit = LIMIT if chosen.limit_mb is None else chosen.limit_mb * 2**20
    with ExitStack() as stack:
        weights = save_networks(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        group = None if chosen.limit_mb is None else stack.enter_context(memory_group(limit))
        service = Service(command=("-m", "service") if group is None else group.command, weights=weights)
        stack.callback(service.close)
        before = psutil.Process(service.process.pid).memory_info().rss
        statuses, peak = asyncio.run(flood(service, chosen.clients, image))
        print(f"{chosen.clients} clients of {len(image)} bytes: {dict(statuses)}")
        print(f"resident memory: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at its peak")
        print(f"limit: {limit / 2**20:.0f} MiB")
        if group is not None:
            print(f"enforced: peak {group.peak / 2**20:.0f} MiB, {group.killed} processes killed")
        raise SystemExit(peak > limit or (group is not None and group.killed > 0))


if __name__ == "__main__":
    main()
