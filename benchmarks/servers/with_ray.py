"""Ray Serve: batches in one replica."""

import asyncio
import os
import sys

os.environ |= {  # read when ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # otherwise it writes a token to the home directory
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_worker_niceness": "0",  # otherwise its workers have a lower priority than the clients
}

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.servers.work import MAX_BATCH, open_work
from service.inference.cpu import available_cpus


@serve.deployment(num_replicas=1, max_ongoing_requests=64)
class Poses:
    def __init__(self) -> None:
        self.work = open_work()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def batch(self, images: list[bytes]) -> list[bytes]:
        return await asyncio.to_thread(self.work, images)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.batch(await request.body()), media_type="application/json")


if __name__ == "__main__":
    ray.init(num_cpus=available_cpus(), include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Poses.bind(), route_prefix="/poses", blocking=True)
