"""Shared by the benchmarks: interleaved rounds, medians and ratios, the machine, the result file.

A machine's speed drifts, so absolute figures are not compared. In each round every case runs once, and its
ratio to, or difference from, the reference of its group in the same round is recorded.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from service.inference.cpu import available_cpus

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
WEIGHTS = ROOT / "model" / "weights"
Figures = dict[str, float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Something to measure.

    group: cases that are compared; the first one is the reference. labels: distinguish the case in its group.
    measure: returns its figures in one round.
    """

    group: str
    labels: dict[str, str | int]
    measure: Callable[[], Figures]


def interleaved(cases: Sequence[Case], rounds: int) -> list[Row]:
    """One row for each case, see `row`; every second round runs the cases in reverse order."""
    measured: list[list[Figures]] = [[] for _ in cases]
    for number in range(rounds):
        order = range(len(cases)) if number % 2 == 0 else reversed(range(len(cases)))
        for index in order:
            measured[index].append(cases[index].measure())
            labels = " ".join(map(str, cases[index].labels.values()))
            print(f"round {number + 1}: {cases[index].group}, {labels}", measured[index][-1], file=sys.stderr)
    references: dict[str, list[Figures]] = {}
    for case, figures in zip(cases, measured, strict=True):
        references.setdefault(case.group, figures)
    return [
        {"group": case.group, **case.labels, **row(figures, references[case.group])}
        for case, figures in zip(cases, measured, strict=True)
    ]


def row(measured: Sequence[Figures], reference: Sequence[Figures]) -> Row:
    """Medians over the rounds: of the figures, and of their ratios to and differences from the reference."""
    shared = [name for name in measured[0] if name in reference[0]]
    pairs = list(zip(measured, reference, strict=True))

    def medians(names: Sequence[str], values: Callable[[str], list[float]]) -> Figures:
        return {name: float(f"{statistics.median(values(name)):.4g}") for name in names}

    return {
        "figures": medians(list(measured[0]), lambda name: [each[name] for each in measured]),
        "ratios": medians(shared, lambda name: [a[name] / b[name] for a, b in pairs if b[name]] or [0.0]),
        "differences": medians(shared, lambda name: [a[name] - b[name] for a, b in pairs]),
    }


def machine() -> dict[str, Any]:
    """Processor, versions, commit, digests of the weights, and load of the machine."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": _processor(),
        "processors": available_cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "runtimes": _runtimes(),
        "commit": commit.stdout.strip() or "unknown",
        "weights": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in WEIGHTS.glob("*.onnx")
        },
        "load_average": round(os.getloadavg()[0], 1),
    }


def _runtimes() -> str:
    """The runtimes that are installed, with their versions."""
    installed = [name for name in ("onnxruntime", "openvino") if find_spec(name)]
    return ", ".join(f"{name} {version(name)}" for name in installed)


def _processor() -> str:
    """The name of the processor, and its vector instructions that networks use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    vectors = [
        name for name in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if name in about.get("flags", "")
    ]
    return ", ".join([about.get("model name", platform.machine()), *vectors])


def options(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="[%(default)s]")
    return parser


def write(out: Path, rounds: int, rows: Sequence[Row], **more: Any) -> None:
    """Write the result file, from which the tables of docs/benchmarks.md are generated."""
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {"rounds": rounds, "machine": machine(), **more, "rows": list(rows)}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{out} written", file=sys.stderr)
