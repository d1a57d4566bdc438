"""How many cameras a core serves: `python -m benchmarks.capacity`.

Measures the CPU time of each stage of a frame, on one thread, with the shipped networks. From it the
cameras per core follow. A simulation of one core's queue, which works like the service's, gives the age of
the answers and the share of dropped frames. docs/capacity.md lists the assumptions.
"""

import heapq
from dataclasses import dataclass
from itertools import product
from math import ceil
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np

from benchmarks.rounds import ROOT, WEIGHTS, Case, interleaved, options, write
from service.core.image import decode
from service.inference.pipeline import Pipeline, open_pipeline
from service.types import Boxes, Frame, Options

SIZE = (1280, 720)
BYTES = 100_000  # of a frame as a JPEG
PERSONS = 2
SERVING_MS = 1.0  # CPU time of both servers per stream frame, see docs/benchmarks.md
TARGET = 0.7  # load of a core
CORES = 16  # per machine
CADENCES = (1, 5)
RATES = (10, 30)
FLEETS = (10, 1_000, 100_000)
_SIMULATED_S = 60


@dataclass(frozen=True)
class Costs:
    """CPU milliseconds: decoding, detection and serving of a frame, pose of a person."""

    decode: float
    detect: float
    pose: float
    serving: float = SERVING_MS

    def frame(self, detect_every: int) -> float:
        """Mean cost of a frame with PERSONS persons, if the detector runs on one frame in `detect_every`."""
        return self.decode + self.detect / detect_every + PERSONS * self.pose + self.serving


def measured(rounds: int, repeats: int) -> tuple[list[dict[str, Any]], Costs]:
    """The rows of the stages, and the costs from their medians."""
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))
    picture = cv2.imencode(".jpg", cv2.resize(photo, SIZE), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    pipeline = open_pipeline(WEIGHTS, threads=1)
    cases = [
        Case("stages", {"stage": name}, lambda work=work: {"cpu_ms": _cpu_ms(work, repeats)})
        for name, work in _stages(pipeline, picture).items()
    ]
    rows = interleaved(cases, rounds)
    cost = {row["stage"]: row["figures"]["cpu_ms"] for row in rows}
    return rows, Costs(cost["decode"], cost["detect"], cost[f"pose of {PERSONS}"] / PERSONS)


def _stages(pipeline: Pipeline, picture: bytes) -> dict[str, Any]:
    image = decode(picture)
    nobody = Options(min_score=1.0)
    box = np.array([[400, 100, 700, 700]], np.float32)
    persons = Boxes(np.repeat(box, PERSONS, 0), np.ones(PERSONS, np.float32))
    return {
        "decode": lambda: decode(picture),
        "detect": lambda: pipeline.run([Frame(image, nobody)]),
        f"pose of {PERSONS}": lambda: pipeline.run([Frame(image, Options(), persons)]),
    }


def _cpu_ms(work: Any, repeats: int) -> float:
    work()
    start = process_time()
    for _ in range(repeats):
        work()
    return 1000 * (process_time() - start) / repeats


def simulated(cameras: int, fps: int, cost_ms: float, seed: int = 0) -> dict[str, float]:
    """Simulates a minute of one core that serves cameras under the policy LATEST.

    Frames arrive at even intervals with a jitter of a tenth; each camera has its own phase. At most one
    frame of each camera waits: a newer frame replaces it in its place in the queue, and it counts as dropped.
    The core works on one frame after the other, in the order of the queue. Ages are from arrival to answer.
    """
    random = np.random.default_rng(seed)
    interval = 1 / fps
    arrivals = [(float(random.uniform(0, interval)), camera) for camera in range(cameras)]
    heapq.heapify(arrivals)
    waiting: dict[int, float] = {}  # arrival of each camera's newest frame, in the order of the queue
    now, sent, dropped, busy, ages = 0.0, 0, 0, 0.0, []
    while now < _SIMULATED_S:
        while arrivals[0][0] <= now or not waiting:
            at, camera = heapq.heappop(arrivals)
            now = max(now, at)
            sent, dropped = sent + 1, dropped + (camera in waiting)
            waiting[camera] = at
            heapq.heappush(arrivals, (at + interval * float(random.uniform(0.9, 1.1)), camera))
        arrived = waiting.pop(next(iter(waiting)))
        now, busy = now + cost_ms / 1000, busy + cost_ms / 1000
        ages.append(now - arrived)
    return {
        "busy": round(busy / now, 3),
        "dropped": round(dropped / sent, 4),
        "p50_ms": round(1000 * float(np.percentile(ages, 50)), 1),
        "p99_ms": round(1000 * float(np.percentile(ages, 99)), 1),
    }


def core_rows(costs: Costs) -> list[dict[str, Any]]:
    """Figures of a core at each cadence and rate, with camera counts below and above its limit."""
    rows = []
    for detect_every, fps in product(CADENCES, RATES):
        cost = costs.frame(detect_every)
        full = 1000 / (cost * fps)
        for cameras in sorted({max(1, round(full * share)) for share in (0.5, TARGET, 0.9, 1.2, 2)}):
            about = {"detect_every": detect_every, "fps": fps, "cameras": cameras}
            rows.append({**about, "load": round(cameras / full, 3), **simulated(cameras, fps, cost)})
    return rows


def fleet_rows(costs: Costs) -> list[dict[str, Any]]:
    """Cores, machines and network bandwidth of fleets with a load of TARGET on each core."""
    rows = []
    for cameras, fps, detect_every in product(FLEETS, RATES, CADENCES):
        cores = cameras * fps * costs.frame(detect_every) / 1000 / TARGET
        network = {"mbit_per_s": round(cameras * fps * BYTES * 8 / 1e6)}
        about = {"cameras": cameras, "fps": fps, "detect_every": detect_every}
        rows.append({**about, "cores": ceil(cores), "machines": ceil(cores / CORES), **network})
    return rows


def main() -> None:
    """Measure, compute and write the result file."""
    parser = options("capacity", __doc__)
    parser.add_argument("--repeats", type=int, default=20, help="runs of a stage in a round [%(default)s]")
    arguments = parser.parse_args()
    rows, costs = measured(arguments.rounds, arguments.repeats)
    write(
        Path(arguments.out),
        arguments.rounds,
        rows,
        frame_ms={str(each): round(costs.frame(each), 2) for each in CADENCES},
        cores=core_rows(costs),
        fleets=fleet_rows(costs),
    )


if __name__ == "__main__":
    main()
