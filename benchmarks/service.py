"""The cost of the service in addition to its networks: `python -m benchmarks.service`.

1, 8 and 32 clients call REST, gRPC and a gRPC stream; each waits for its answers. The reference is the same
pipeline in a bare Python loop without a server. Another case runs one bare loop for each processor, with
one thread for each network. All run with the shipped networks, and with networks that compute almost
nothing, where most of the cost is the service's own.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil

from benchmarks.load import HttpClient, StreamClient, UnaryClient, figures, under_load
from benchmarks.rounds import ROOT, WEIGHTS, Case, Figures, interleaved, options, write
from service.core.image import decode
from service.inference.cpu import available_cpus
from service.inference.pipeline import Pipeline, open_pipeline
from service.types import InferenceInput, Options
from tests.support.networks import save_networks
from tests.support.service import Service

CLIENTS = (1, 8, 32)
PHOTO = ROOT / "examples" / "astronaut.jpg"


def bare(pipelines: Sequence[Pipeline], image: bytes, seconds: float) -> Figures:
    """The figures of `under_load` for loops that call the pipelines, each loop on its own thread."""

    def loop(pipeline: Pipeline) -> list[float]:
        latencies = []
        begin = perf_counter()
        while not latencies or begin < start + seconds:
            pipeline.run([InferenceInput(decode(image), Options())])
            now = perf_counter()
            latencies.append(now - begin)
            begin = now
        return latencies

    busy, start = process_time(), perf_counter()
    with ThreadPoolExecutor(len(pipelines)) as pool:
        latencies = [each for of_loop in pool.map(loop, pipelines) for each in of_loop]
    return figures(latencies, perf_counter() - start, process_time() - busy)


@contextmanager
def cases(networks: str, weights: Path, clients: Sequence[int], seconds: float) -> Iterator[list[Case]]:
    """The bare loops, and a running service, with the networks of a folder."""
    image, cpus = PHOTO.read_bytes(), available_cpus()
    one = [open_pipeline(weights, threads=cpus)]
    several = [open_pipeline(weights, threads=1) for _ in range(cpus)]
    service = Service(weights=weights, max_images=2 * max(clients))
    process = psutil.Process(service.process.pid)
    apis: dict[str, Callable[[], Any]] = {
        "REST": partial(HttpClient, f"{service.url}/v1/poses", image),
        "gRPC": partial(UnaryClient, service.grpc, image),
        "gRPC stream": partial(StreamClient, service.grpc, image),
    }
    try:
        yield [
            Case(networks, {"api": "bare loop", "clients": 1}, partial(bare, one, image, seconds)),
            *(
                Case(networks, {"api": api, "clients": n}, partial(under_load, client, n, seconds, process))
                for n in clients  # a lone client follows the bare loop, as the machine's speed drifts
                for api, client in apis.items()
            ),
            Case(networks, {"api": "bare loops", "clients": cpus}, partial(bare, several, image, seconds)),
        ]
    finally:
        service.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("service", __doc__)
    parser.add_argument(
        "--seconds", type=float, default=4, help="seconds of each case in a round [%(default)s]"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="[%(default)s]")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for networks, weights in {"shipped": WEIGHTS, "next to nothing": save_networks(Path(folder))}.items():
            with cases(networks, weights, chosen.clients, chosen.seconds) as measured:
                rows += interleaved(measured, chosen.rounds)
    write(chosen.out, chosen.rounds, rows, seconds=chosen.seconds)


if __name__ == "__main__":
    main()
