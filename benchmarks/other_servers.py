"""The service and other servers with the same networks: `python -m benchmarks.other_servers`.

LitServe, BentoML, Ray Serve, mosec and plain FastAPI run the service's pipeline in virtual environments
that the first run creates. The image is the request body, or a form field where a server reads only forms.

With one client the servers differ by less than the speed of a machine does from one second to the next, so
all servers are started, and asked in turn, a few requests each. The ones that are not asked are stopped:
some use a processor while they wait. With several clients each server is started and measured on its own.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from random import sample
from time import monotonic, perf_counter, sleep

import psutil

from benchmarks.environments import CACHE, python_of
from benchmarks.load import HttpClient, cpu_seconds, figures, under_load
from benchmarks.rounds import ROOT, WEIGHTS, Case, Figures, Row, interleaved, options, row, write
from tests.support.service import Service

PHOTO = ROOT / "examples" / "astronaut.jpg"
CLIENTS = (1, 8)
STARTS_IN_S = 180
TURN = 6  # requests; those before, which find the caches of another server, are not counted
UNCOUNTED = 2
Start = Callable[[], AbstractContextManager[tuple[psutil.Process, Callable[[], HttpClient]]]]


@dataclass(frozen=True)
class Server:
    """environment: a name in benchmarks.environments; form: the field of the image, None for the body."""

    environment: str
    path: str
    form: str | None = None


SERVERS = {
    "FastAPI, thread pool": Server("fastapi", "/poses"),
    "mosec": Server("mosec", "/inference"),
    "LitServe": Server("litserve", "/predict", "image"),
    "BentoML": Server("bentoml", "/poses", "image"),
    "Ray Serve": Server("ray", "/poses"),
}


@contextmanager
def ours(form: str | None) -> Iterator[tuple[psutil.Process, Callable[[], HttpClient]]]:
    """The process of the service, and a function that opens a client."""
    service = Service(weights=WEIGHTS)
    try:
        client = partial(HttpClient, f"{service.url}/v1/poses", PHOTO.read_bytes(), form=form)
        yield psutil.Process(service.process.pid), client
    finally:
        service.close()


@contextmanager
def running(server: Server) -> Iterator[tuple[psutil.Process, Callable[[], HttpClient]]]:
    """The process of a server, and a function that opens a client.

    Raises TimeoutError when the server does not answer within STARTS_IN_S.
    """
    python, port = python_of(server.environment), _free_port()
    module = f"benchmarks.servers.with_{server.environment}"
    log = (CACHE / f"{server.environment}.log").open("w")
    process = subprocess.Popen(
        [str(python), "-m", module, str(port)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    family = psutil.Process(process.pid)
    url = f"http://127.0.0.1:{port}{server.path}"
    client = partial(HttpClient, url, PHOTO.read_bytes(), form=server.form)
    try:
        _wait_for(client, process)
        yield family, client
    finally:
        _end(family)
        process.wait()
        log.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_for(client: Callable[[], HttpClient], process: subprocess.Popen[bytes]) -> None:
    end = monotonic() + STARTS_IN_S
    while monotonic() < end and process.poll() is None:
        asking = client()
        try:
            asking()
            return
        except (OSError, HTTPException, RuntimeError):  # not started yet
            sleep(0.5)
        finally:
            asking.close()
    raise TimeoutError(f"{process.args} does not answer; see its log in {CACHE}")


def _end(process: psutil.Process) -> None:
    """Terminate a process, then kill it and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        family = [*process.children(recursive=True), process]
        process.terminate()
        psutil.wait_procs([process], timeout=20)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=20)


def under_loads(start: Start, clients: Sequence[int], seconds: float) -> Figures:
    """Start a server and measure it; the names of the figures end with the number of clients."""
    found: Figures = {}
    with start() as (process, client):
        for number in clients:
            found |= _named(under_load(client, number, seconds, process), number)
    return found


def in_turn(starts: Mapping[str, Start], seconds: float) -> dict[str, Figures]:
    """Start all servers and measure each for `seconds` with one client, in turns."""
    latencies: dict[str, list[float]] = {name: [] for name in starts}
    busy = dict.fromkeys(starts, 0.0)
    with ExitStack() as stack:
        asking = {}
        for name, start in starts.items():
            process, client = stack.enter_context(start())
            asking[name] = process, stack.enter_context(closing(client()))
            stack.callback(_signal, process, signal.SIGCONT)
            _signal(process, signal.SIGSTOP)
        while min(map(sum, latencies.values())) < seconds:
            for name in sample(list(asking), len(asking)):  # none always follows the same one
                process, ask = asking[name]
                _signal(process, signal.SIGCONT)
                for _ in range(UNCOUNTED):
                    ask()
                used = cpu_seconds(process)
                latencies[name] += [_seconds(ask) for _ in range(TURN)]
                busy[name] += cpu_seconds(process) - used
                _signal(process, signal.SIGSTOP)
    return {name: _named(figures(each, sum(each), busy[name]), 1) for name, each in latencies.items()}


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            each.send_signal(number)


def _seconds(ask: Callable[[], bytes]) -> float:
    begin = perf_counter()
    ask()
    return perf_counter() - begin


def _named(found: Figures, clients: int) -> Figures:
    return {f"{name}_{clients}": value for name, value in found.items()}


def answers(server: Server) -> bool:
    """Whether a server starts; creates its environment if it is missing."""
    try:
        with running(server):
            return True
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return False


def _rows(starts: Mapping[str, Start], clients: Sequence[int], seconds: float, rounds: int) -> list[Row]:
    """The figures of each server at each number of clients."""
    several = [number for number in clients if number > 1]
    cases = [
        Case("servers", {"server": name}, partial(under_loads, start, several, seconds))
        for name, start in starts.items()
    ]
    rows = interleaved(cases, rounds) if several else [{"server": name} for name in starts]
    if 1 in clients:
        measured = [in_turn(starts, seconds) for _ in range(rounds)]
        reference = [each["ours"] for each in measured]
        for one in rows:
            for part, found in row([each[one["server"]] for each in measured], reference).items():
                one.setdefault(part, {}).update(found)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("other_servers", __doc__)
    parser.add_argument(
        "--seconds", type=float, default=5, help="seconds at each number of clients [%(default)s]"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="[%(default)s]")
    parser.add_argument("--only", nargs="*", choices=SERVERS, default=list(SERVERS), help="[all]")
    chosen = parser.parse_args(arguments)
    absent = [name for name in chosen.only if not answers(SERVERS[name])]
    starts = {
        "ours": partial(ours, None),
        "ours, image in a form": partial(ours, "image"),
        **{name: partial(running, SERVERS[name]) for name in chosen.only if name not in absent},
    }
    rows = _rows(starts, chosen.clients, chosen.seconds, chosen.rounds)
    write(chosen.out, chosen.rounds, rows, clients=chosen.clients, absent=absent)


if __name__ == "__main__":
    main()
