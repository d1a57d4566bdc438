"""Updates the tables of the documents: `python scripts/tables.py`.

A table is placed between `<!-- table: NAME -->` and `<!-- end -->`. Its rows are read from the result files
of the benchmarks and the evaluation, so no figure is typed by hand.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reference  # in the same folder, like tabular
from tabular import table

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "model/weights/MODEL_CARD.md",
    *(f"docs/{name}.md" for name in ("api", "benchmarks", "capacity", "models", "settings")),
)
ACCURACY = ROOT / "model" / "weights" / "accuracy.json"
RESULTS = ROOT / "benchmarks" / "results"
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def accuracy() -> str:
    """Every row that `python -m model.evaluate --json` wrote."""
    shares = "ap", "ap50", "ap75", "ar"
    return table(
        ("what", "network", "AP", "AP50", "AP75", "AR", "persons", "photos"),
        (
            (
                row["task"],
                row["network"],
                *(f"{row[key]:.3f}" for key in shares),
                row["persons"],
                row["images"],
            )
            for row in json.loads(ACCURACY.read_text())["rows"]
        ),
    )


def result(name: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of a benchmark, and a line about the machine and the rounds."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    machine = found["machine"]
    about = (
        f"Rounds: {found['rounds']}; processors: {machine['processors']} of {machine['processor']}; "
        f"{machine['runtimes']}; load average {machine['load_average']}; "
        f"commit {machine['commit']}."
    )
    return found["rows"], about


def _pivoted(rows: list[dict[str, Any]], name: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows by their label `name`, then by group."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[name], {})[row["group"]] = row
    return found


def network() -> str:
    """Times relative to LGM-Pose, and shares of the processor's matrix product speed."""
    rows, about = result("network")
    networks = _pivoted(rows, "network")
    best = networks.pop("matrix product")
    paper = json.loads((RESULTS / "network.json").read_text())["paper_ratios"]
    times = table(
        ("network", "M parameters", "G MACs", "in the paper", *best),
        (
            (name, one["params_m"], one["gmacs"], paper[name], *(groups[g]["ratios"]["ms"] for g in best))
            for name, groups in networks.items()
            for one in [next(iter(groups.values()))]
        ),
    )
    shares = table(
        ("network", *best),
        (
            (name, *(f"{groups[g]['ratios']['gflops'] / best[g]['ratios']['gflops']:.0%}" for g in best))
            for name, groups in networks.items()
        ),
    )
    ours = networks["LGM-Pose"]
    own = table(("LGM-Pose", *best), [("ms a crop", *(ours[g]["figures"]["ms"] for g in best))])
    return (
        f"Time per crop, relative to LGM-Pose:\n\n{times}\n\n{own}\n\n"
        f"Operations a second, relative to a matrix product:\n\n{shares}\n\n{about}"
    )


def service() -> str:
    """The service and the bare loop, with both pairs of networks."""
    rows, about = result("service")
    titles = ("networks", "what", "clients", "requests/s", "x bare loop", "p50 ms", "p50 - bare", "p99 ms")
    lines = (
        (
            *(row[name] for name in ("group", "api", "clients")),
            *(row[part][name] for part, name in (("figures", "per_second"), ("ratios", "per_second"))),
            *(row[part]["p50_ms"] for part in ("figures", "differences")),
            *(row["figures"][name] for name in ("p99_ms", "cpu_ms")),
            row["differences"]["cpu_ms"],
        )
        for row in rows
    )
    return f"{table((*titles, 'CPU ms', 'CPU - bare'), lines)}\n\n{about}"


def other_servers() -> str:
    """Each server at each number of clients, ours first."""
    rows, about = result("other_servers")
    found = json.loads((RESULTS / "other_servers.json").read_text())
    lines = (
        (
            row["server"],
            number,
            row["figures"][f"per_second_{number}"],
            row["ratios"][f"per_second_{number}"],
            row["figures"][f"p50_ms_{number}"],
            row["figures"][f"p99_ms_{number}"],
            row["ratios"][f"p99_ms_{number}"],
            row["figures"][f"cpu_ms_{number}"],
        )
        for number in found["clients"]
        for row in rows
    )
    titles = ("server", "clients", "requests/s", "x ours", "p50 ms", "p99 ms", "p99 x ours", "CPU ms")
    absent = f" Did not start here: {', '.join(found['absent'])}." if found["absent"] else ""
    return f"{table(titles, lines)}\n\n{about}{absent}"


def pipeline() -> str:
    """Each system at each number of persons."""
    rows, about = result("pipeline")
    titles = ("photos", "system", "AP", "persons", "found", "photos/s", "time x ours", "CPU ms")
    lines = (
        (
            f"{row['group']} ({row['photos']})",
            row["system"],
            f"{row['ap']:.3f}",
            row["persons_a_photo"],
            row["found_a_photo"],
            row["figures"]["per_second"],
            row["ratios"]["ms"],
            row["figures"]["cpu_ms"],
        )
        for row in rows
    )
    return f"{table(titles, lines)}\n\n{about}"


def served_accuracy() -> str:
    """Accuracy over REST and by `model.evaluate`, of pairs of networks."""
    rows, about = result("served_accuracy")
    titles = "networks", "AP over REST", "AP by model.evaluate", "CPU ms a photo", "persons", "photos"
    lines = (
        (
            row["networks"],
            *(f"{row[key]:.3f}" for key in ("ap_served", "ap_evaluated")),
            row["cpu_ms"],
            row["persons"],
            row["photos"],
        )
        for row in rows
    )
    return f"{table(titles, lines)}\n\n{about}"


def capacity_costs() -> str:
    """Processor time of the stages, and of whole frames."""
    rows, about = result("capacity")
    frames = json.loads((RESULTS / "capacity.json").read_text())["frame_ms"]
    lines: list[tuple[object, object]] = [(row["stage"], row["figures"]["cpu_ms"]) for row in rows]
    lines += [(f"a frame, detector on one in {each}", frames[each]) for each in frames]
    return f"{table(('stage', 'CPU ms'), lines)}\n\n{about}"


def capacity_cores() -> str:
    """A core below and above its limit of cameras."""
    rows = json.loads((RESULTS / "capacity.json").read_text())["cores"]
    names = "detect_every", "fps", "cameras"
    lines = (
        (*(row[n] for n in names), row["load"], f"{row['dropped']:.0%}", row["p50_ms"], row["p99_ms"])
        for row in rows
    )
    titles = ("detect_every", "frames/s", "cameras", "load", "dropped", "age p50 ms", "age p99 ms")
    return table(titles, lines)


def streams() -> str:
    """Streams and the bare loop, and the accuracy that options cost."""
    _, about = result("streams")
    found = json.loads((RESULTS / "streams.json").read_text())
    one = {f"one, {name.replace('_', ' ')}": figures for name, figures in found["one_camera"].items()}
    cases = one | {f"{number}, no tracking": each for number, each in found["cameras_together"].items()}
    rows = ((name, each["frames_per_second"], each["times_bare"]) for name, each in cases.items())
    measures = "mean_oks", "found_of_reference", "persons_ratio"
    accuracy = table(
        ("compared with the detector on every frame", *(each.replace("_", " ") for each in measures)),
        (
            (name.replace("_", " "), *(each[measure] for measure in measures))
            for name, each in found["accuracy"].items()
        ),
    )
    return f"{table(('cameras', 'frames/s', 'x bare loop'), rows)}\n\n{accuracy}\n\n{about}"


def cameras_age() -> str:
    """Ages of frames at the start of their inference."""
    rows, about = result("cameras_age")
    names = "age_p50_ms", "age_p99_ms", "frames_per_second"
    lines = ((row["cameras"], *(row["figures"][name] for name in names)) for row in rows)
    return f"{table(('cameras', 'age p50 ms', 'age p99 ms', 'frames/s'), lines)}\n\n{about}"


def stalled() -> str:
    """Latencies of cameras alone and next to a reader that stops."""
    rows, about = result("stalled")
    names = "p50_ms", "p99_ms", "held_frames", "mib"
    titles = ("next to the cameras", "p50 ms", "p99 ms", "frames taken from it", "MiB grown", "p99 x alone")
    lines = ((row["next_to"], *(row["figures"][n] for n in names), row["ratios"]["p99_ms"]) for row in rows)
    return f"{table(titles, lines)}\n\n{about}"


def attack() -> str:
    """The rate of a normal client under each attack."""
    rows, about = result("attack")
    titles = ("attack", "connections held", "requests/s without", "requests/s", "p99 ms", "share of the rate")
    names = "held", "quiet_per_second", "per_second", "p99_ms"
    lines = (
        (row["attack"], *(row["figures"][n] for n in names), f"{row['figures']['share']:.2f}") for row in rows
    )
    return f"{table(titles, lines)}\n\n{about}"


def capacity_fleets() -> str:
    """Cores, machines and network bandwidth of fleets."""
    rows = json.loads((RESULTS / "capacity.json").read_text())["fleets"]
    titles = ("cameras", "frames/s", "detect_every", "cores", "machines", "network Mbit/s")
    return table(titles, (tuple(f"{value:,}" for value in row.values()) for row in rows))


TABLES: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        accuracy,
        network,
        service,
        other_servers,
        pipeline,
        streams,
        cameras_age,
        stalled,
        attack,
        capacity_costs,
        capacity_cores,
        capacity_fleets,
        served_accuracy,
        reference.rest,
        reference.grpc,
        reference.settings,
    )
}


def filled(text: str) -> str:
    """The document with its tables generated again. Raises KeyError for an unknown table."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def stale() -> list[Path]:
    """The documents whose tables differ from the result files."""
    documents = [ROOT / name for name in DOCUMENTS if (ROOT / name).exists()]
    return [path for path in documents if filled(path.read_text()) != path.read_text()]


if __name__ == "__main__":
    for path in stale():
        path.write_text(filled(path.read_text()))
        print(f"{path.relative_to(ROOT)} updated", file=sys.stderr)
