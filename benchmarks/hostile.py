"""What hostile inputs cost, and how long they hold up the service: `python -m benchmarks.hostile`.

The cost is the time of reading an input: twice the bytes must take about twice as long. The pause is the
longest time that /healthz takes while an input of full size is sent to a running service.
"""

import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter, sleep, thread_time

import grpc
import httpx

from service.core.image import decode, read_size
from service.errors import PoseError
from tests.support.hostile import IMAGES
from tests.support.hostile_requests import BODIES, MESSAGES, heads
from tests.support.networks import save_networks
from tests.support.service import Service

_SMALL = 2**20
_METHODS = {
    "EstimateRequest": "/pose.v1.PoseService/Estimate",
    "ModelInferRequest": "/inference.GRPCInferenceService/ModelInfer",
    "EstimateStreamRequest": "/pose.v1.PoseService/EstimateStream",
}


class Probe:
    """Asks for /healthz again and again. worst: the longest time that an answer took, in seconds."""

    def __init__(self, url: str) -> None:
        self.worst = 0.0
        self._url, self._started, self._stopped = url, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=600) as client:
            client.get("/healthz")
            self._started.set()
            while not self._stopped.is_set():
                start = perf_counter()
                client.get("/healthz")
                self.worst = max(self.worst, perf_counter() - start)
                sleep(0.002)

    def stop(self) -> float:
        """The longest time."""
        self._stopped.set()
        self._thread.join()
        return self.worst


def cost(data: bytes) -> float:
    """Processor seconds of reading an image, the least of three."""
    times = []
    for _ in range(3):
        start = thread_time()
        try:
            read_size(data, 40_000_000)
            decode(data)
        except PoseError:
            pass
        times.append(thread_time() - start)
    return min(times)


def send_all(service: Service, size: int) -> list[str]:
    """Send every input once. A line for each: size, status, seconds, the longest pause."""
    lines = []
    with httpx.Client(base_url=service.url, timeout=600) as client:

        def measure(name: str, length: int, send: object) -> None:
            probe = Probe(service.url)
            start = perf_counter()
            status = send()  # type: ignore[operator]
            seconds = perf_counter() - start
            lines.append(f"| {name} | {length} | {status} | {seconds:.2f} | {probe.stop() * 1e3:.0f} |")
            print(lines[-1], flush=True)

        measure("nothing", 0, lambda: sleep(2))
        for image in IMAGES:
            data, kind = image(size), {"content-type": "image/jpeg"}
            post = client.build_request("POST", "/v1/poses", content=data, headers=kind)
            measure(image.__name__, len(data), lambda post=post: client.send(post).status_code)
        for body in BODIES:
            for length in (size, min(size, 7 * 2**20), 2**18):
                data, kind = body.grow(length), {"content-type": body.content_type}
                post = client.build_request("POST", body.path, content=data, headers=kind)
                measure(body.name, len(data), lambda post=post: client.send(post).status_code)
        for request in heads():
            head = client.build_request(
                request.method,
                request.url.raw_path.decode(),
                headers=request.headers,
                content=request.content,
            )
            measure("a large head", 60_000, lambda head=head: client.send(head).status_code)
    with grpc.insecure_channel(service.grpc) as channel:
        for name, grow in MESSAGES.items():
            data, method = grow(size), _METHODS[name.partition(" ")[0]]
            measure(name, len(data), lambda data=data, method=method: _call(channel, method, data))
    return lines


def _call(channel: grpc.Channel, method: str, data: bytes) -> str:
    try:
        channel.stream_unary(method)(iter([data]), timeout=600)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def main() -> None:
    """Print both tables."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 20 * 2**20 - 65_536
    print("| input | seconds of 1 MiB | 2 MiB / 1 MiB | 4 MiB / 2 MiB |\n|---|---|---|---|")
    for image in IMAGES:
        one, two, four = (cost(image(_SMALL * factor)) for factor in (1, 2, 4))
        print(f"| {image.__name__} | {one:.4f} | {two / one:.2f} | {four / two:.2f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(weights=save_networks(Path(folder)))
        print("\n| input | bytes | status | seconds | longest pause, ms |\n|---|---|---|---|---|")
        send_all(service, size)
        service.close()


if __name__ == "__main__":
    main()
