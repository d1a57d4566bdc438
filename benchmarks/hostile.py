"""What hostile inputs cost, and how long they hold up the service: `python -m benchmarks.hostile`.

The cost is the time of reading an input: twice the bytes must take about twice as long. The pause is the
largest one of the event loop while an input of full size is sent to a running service, the median of three;
see benchmarks.loop_pauses for its parts.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep, thread_time

import grpc
import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.loop_pauses import COMMAND, largest_pause
from service.core.image import decode, read_size
from service.errors import PoseError
from tests.support.hostile import IMAGES
from tests.support.hostile_requests import BODIES, CONFIGS, MESSAGES, heads
from tests.support.networks import save_networks
from tests.support.service import Service

_SMALL = 2**20
_METHODS = {
    "EstimateRequest": "/pose.v1.PoseService/Estimate",
    "ModelInferRequest": "/inference.GRPCInferenceService/ModelInfer",
    "EstimateStreamRequest": "/pose.v1.PoseService/EstimateStream",
}


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


def measure(service: Service, name: str, size: int, send: Callable[[], object]) -> None:
    """Send an input three times. Prints a line: size, status, seconds, the largest pause and its parts."""
    pauses, seconds, status = [], [], None
    for _ in range(3):
        start = perf_counter()
        with largest_pause(service) as found:
            status = send()
            seconds.append(perf_counter() - start)
        pauses.append(found.largest)
    own, cpu, waited = (median(getattr(pause, part) for pause in pauses) for part in ("own", "cpu", "waited"))
    took = median(seconds)
    print(f"| {name} | {size} | {status} | {took:.2f} | {own:.0f} | {cpu:.0f} | {waited:.0f} |", flush=True)


def send_images(service: Service, client: httpx.Client, size: int) -> None:
    for image in IMAGES:
        data, kind = image(size), {"content-type": "image/jpeg"}
        post = partial(client.post, "/v1/poses", content=data, headers=kind)
        measure(service, image.__name__, len(data), lambda post=post: post().status_code)


def send_bodies(service: Service, client: httpx.Client, size: int) -> None:
    for body in BODIES:
        for length in (size, min(size, 7 * 2**20), 2**18):
            data = body.grow(length)
            post = partial(client.post, body.path, content=data, headers=body.headers)
            measure(service, body.name, len(data), lambda post=post: post().status_code)
    for request in heads():
        path = request.url.raw_path.decode()
        head = client.build_request(request.method, path, headers=request.headers, content=request.content)
        measure(service, "a large head", 60_000, lambda head=head: client.send(head).status_code)


def send_messages(service: Service, size: int) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        for name, grow in MESSAGES.items():
            data, method = grow(size), _METHODS[name.partition(" ")[0]]
            measure(service, name, len(data), partial(_call, channel, method, data))
    for name, config in CONFIGS.items():
        text = config(size)
        measure(service, name, len(text), partial(_converse, service, text))


def _converse(service: Service, config: str) -> str:
    """The end of a stream over WebSocket with this config."""
    with connect(f"{service.url.replace('http', 'ws')}/v1/stream", max_size=None) as socket:
        socket.send(config)
        try:
            while True:
                socket.recv(timeout=600)
        except ConnectionClosed as end:
            return end.rcvd.reason if end.rcvd else "lost"


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
        service = Service(command=COMMAND, weights=save_networks(Path(folder)))
        print(
            "\n| input | bytes | status | seconds | pause, ms | cpu | waited |\n|---|---|---|---|---|---|---|"
        )
        measure(service, "nothing", 0, partial(sleep, 1))
        with httpx.Client(base_url=service.url, timeout=600) as client:
            send_images(service, client, size)
            send_bodies(service, client, size)
        send_messages(service, size)
        service.close()


if __name__ == "__main__":
    main()
