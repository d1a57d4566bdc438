"""The memory of the service under large uploads at the same time: `python -m benchmarks.uploads 200`.

Each client sends one image of the largest size allowed, half of them over HTTP and half over gRPC. The peak
is the resident memory of the process. Compose and Kubernetes allow 3 GiB, of which videos may take 512 MiB.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

import grpc
import httpx
import psutil

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
        while True:
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
            return str((await http.post("/v1/poses", content=image, headers=headers)).status_code)

        async def call() -> str:
            return str((await stub.Estimate(request, timeout=300).code()).name)

        statuses = await asyncio.gather(*(post() if number % 2 else call() for number in range(clients)))
    watching.cancel()
    return Counter(statuses), peak


def main() -> None:
    """Print statuses and memory; exit with 1 above the limit."""
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    photo = (ROOT / "examples" / "astronaut.jpg").read_bytes()
    image = photo.ljust(Settings.model_fields["max_body_bytes"].default - 4096, b"\0")
    with tempfile.TemporaryDirectory() as folder:
        service = Service(weights=save_networks(Path(folder)))
        before = psutil.Process(service.process.pid).memory_info().rss
        statuses, peak = asyncio.run(flood(service, clients, image))
        service.close()
    print(f"{clients} clients of {len(image)} bytes: {dict(statuses)}")
    print(f"resident memory: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at its peak")
    print(f"limit: {LIMIT / 2**20:.0f} MiB")
    raise SystemExit(peak > LIMIT)


if __name__ == "__main__":
    main()
