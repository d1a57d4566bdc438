"""What slow HTTP attacks cost a normal client: `python -m benchmarks.attack`.

slowhttptest (a Debian package) opens hundreds of connections on the loopback interface. On each it sends a
head (slowloris) or a body (R.U.D.Y.) slowly, or reads the answer slowly. One client posts images before,
during and after the attack. `share` is its rate under attack divided by the mean of the other two; without
an attack it shows the noise. `held` is the number of open connections before the client connects.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import sleep

import cv2
import psutil

from benchmarks import rounds
from benchmarks.load import HttpClient, under_load
from benchmarks.rounds import ROOT, WEIGHTS, Case, Figures
from tests.support.service import Service, encode

RAMP_S = 5  # until all connections are open: half of POSE_HEAD_TIMEOUT_S
ATTACKS: dict[str, list[str]] = {
    "none": [],
    "slow heads": ["-H"],
    "slow bodies": ["-B", "-s", "8192", "-t", "POST", "-f", "image/jpeg"],
    "slow reading": ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "16"],
}


@contextmanager
def attacked(service: Service, options: Sequence[str], connections: int) -> Iterator[None]:
    """Keeps the connections of slowhttptest open; without options there are none."""
    if not options:
        sleep(RAMP_S)
        yield
        return
    path = "v1/poses" if "-B" in options else "openapi.json"
    pace = ["-c", str(connections), "-r", str(max(1, connections // RAMP_S)), "-i", "5", "-l", "600"]
    attack = subprocess.Popen(
        ["slowhttptest", *options, *pace, "-u", f"{service.url}/{path}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        sleep(RAMP_S)
        yield
    finally:
        attack.kill()
        attack.wait()


def measure(service: Service, options: Sequence[str], connections: int, seconds: float) -> Figures:
    """The client before, during and after an attack. Raises RuntimeError when it is refused."""
    picture = encode(cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))[::4, ::4])
    process = psutil.Process(service.process.pid)
    client = partial(HttpClient, f"{service.url}/v1/poses", picture)

    def phase() -> Figures:
        return under_load(client, 1, seconds, process)

    before = phase()
    with attacked(service, options, connections):
        held = sum(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections("tcp"))
        during = phase()
    quiet = (before["per_second"] + phase()["per_second"]) / 2
    share = during["per_second"] / quiet
    return {"quiet_per_second": quiet, **during, "share": share, "held": held}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = rounds.options("attack", __doc__)
    parser.add_argument("--seconds", type=float, default=6, help="of each phase [%(default)s]")
    parser.add_argument("--connections", type=int, default=500, help="of an attack [%(default)s]")
    parser.add_argument("--only", choices=ATTACKS, nargs="+", default=list(ATTACKS))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="[%(default)s]")
    chosen = parser.parse_args(arguments)
    if shutil.which("slowhttptest") is None and set(chosen.only) != {"none"}:
        raise SystemExit("slowhttptest is not installed: apt-get install slowhttptest, or --only none")
    service = Service(weights=chosen.weights)

    def case(name: str) -> Case:
        given = ATTACKS[name], chosen.connections, chosen.seconds
        return Case("attacks", {"attack": name}, lambda: measure(service, *given))

    try:
        rows = rounds.interleaved([case(name) for name in chosen.only], chosen.rounds)
    finally:
        service.close()
    rounds.write(chosen.out, chosen.rounds, rows, seconds=chosen.seconds, connections=chosen.connections)


if __name__ == "__main__":
    main()
