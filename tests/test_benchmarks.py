"""The benchmarks run and report the right figures. No test asserts a speed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import attack, cameras_age, network, other_servers, overload, service, stalled, steps
from benchmarks.baseline_networks import BASELINES
from benchmarks.rounds import Case, Figures, interleaved
from tests.model.shards import write_shard
from tests.support.service import ROOT

FIGURES = {"per_second", "p50_ms", "p99_ms", "cpu_ms"}


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a result file that describes how it was measured."""
    result = json.loads(path.read_text())
    assert result["rounds"] == 1
    assert result["machine"].keys() >= {"processor", "processors", "commit", "weights", "load_average"}
    found: list[dict[str, Any]] = result["rows"]
    assert all(np.isfinite([*row["figures"].values(), *row["ratios"].values()]).all() for row in found)
    return found


def test_rounds_are_interleaved_and_compared_with_the_first_case_of_the_group() -> None:
    ran: list[str] = []

    def case(group: str, name: str, *values: float) -> Case:
        left = list(values)

        def measure() -> Figures:
            ran.append(name)
            return {"ms": left.pop(0)}

        return Case(group, {"name": name}, measure)

    cases = [case("x", "a", 1, 2, 4), case("x", "b", 2, 6, 9), case("y", "c", 5, 5, 5)]
    a, b, c = interleaved(cases, 3)
    assert "".join(ran) == "abc" + "cba" + "abc"
    assert a == {
        "group": "x",
        "name": "a",
        "figures": {"ms": 2},
        "ratios": {"ms": 1},
        "differences": {"ms": 0},
    }
    assert (b["figures"]["ms"], b["ratios"]["ms"], b["differences"]["ms"]) == (6, 2.25, 4)
    assert (c["ratios"]["ms"], c["differences"]["ms"]) == (1, 0)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    # published: 34.0 M and 5.4 G, 9.6 M and 1.6 G, 1.1 M and 0.2 G
    [("SimpleBaseline ResNet-50", 34.0, 5.43), ("MobileNetV2", 9.57, 1.57), ("Lite-HRNet-18", 1.13, 0.199)],
)
def test_baseline_networks_have_the_published_sizes(name: str, params: float, macs: float) -> None:
    built = BASELINES[name]()
    counted = network.cost(built)
    assert counted == pytest.approx((params, macs), rel=0.01)
    with torch.no_grad():
        assert built(torch.zeros(1, 3, 256, 192)).shape == (1, 17, 64, 48)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "BASELINES", {"MobileNetV2": lambda: nn.Conv2d(3, 17, 4, 4)})
    cases = network.cases(tmp_path, batches=(1, 2), threads=(2,), seconds=0.01)
    found = interleaved(cases, 1)
    assert [(row["group"], row["network"]) for row in found] == [
        *((f"batch {b}, threads 2", name) for b in (1, 2) for name in ("LGM-Pose", "MobileNetV2")),
        *((f"batch {b}, threads 2", "matrix product") for b in (1, 2)),
    ]
    assert found[0]["ratios"] == {"ms": 1, "cpu_ms": 1, "gflops": 1}


def test_service(tmp_path: Path) -> None:
    out = tmp_path / "service.json"
    service.main(["--rounds", "1", "--seconds", "0.1", "--clients", "2", "--out", str(out)])
    found = rows(out)
    assert [row["api"] for row in found] == 2 * ["bare loop", "REST", "gRPC", "gRPC stream", "bare loops"]
    assert {row["group"] for row in found} == {"shipped", "next to nothing"}
    assert all(row["figures"].keys() == FIGURES for row in found)


async def test_each_camera_is_answered_with_frames_of_its_last_interval() -> None:
    found = await cameras_age.ages(4, seconds=1)
    assert found["frames_per_second"] > 0
    assert 0 < found["age_p50_ms"] <= found["age_p99_ms"]


def test_other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only FastAPI runs here: it is one of our packages. The other servers need environments of their own."""
    monkeypatch.setattr(other_servers, "python_of", lambda name: Path(sys.executable))
    monkeypatch.setattr(other_servers, "CACHE", tmp_path)
    out = tmp_path / "other_servers.json"
    command = ["--rounds", "1", "--seconds", "0.1", "--clients", "1", "2", "--out", str(out)]
    other_servers.main([*command, "--only", "FastAPI, thread pool"])
    found = rows(out)
    assert [row["server"] for row in found] == ["ours", "ours, image in a form", "FastAPI, thread pool"]
    names = {f"{name}_{clients}" for name in FIGURES for clients in (1, 2)}
    assert all(row["figures"].keys() == row["ratios"].keys() == names for row in found)


def test_pipeline(tmp_path: Path) -> None:
    write_shard(tmp_path / "val.tar", "val", 2, seed=0)
    out = tmp_path / "pipeline.json"
    command = ["-m", "benchmarks.pipeline", "--alone", "--rounds", "1", "--data", str(tmp_path)]
    subprocess.run([sys.executable, *command, "--out", str(out)], cwd=ROOT, check=True)
    found = rows(out)
    systems = ["ours", "ours in float32 (onnxruntime)"]
    expected = [(group, system, 2) for group in ("all photos", "1 person") for system in systems]
    assert [(row["group"], row["system"], row["photos"]) for row in found] == expected
    assert all(0 <= row["ap"] <= 1 for row in found)


def test_a_stalled_reader_is_held_back_and_the_cameras_are_answered(
    networks: dict[bool, Path], tmp_path: Path
) -> None:
    out = tmp_path / "stalled.json"
    few = ["--rounds", "1", "--seconds", "2", "--cameras", "1", "--fps", "5", "--out", str(out)]
    stalled.main([*few, "--weights", str(networks[True])])
    alone, together = rows(out)
    assert alone["figures"]["held_frames"] == 0 < together["figures"]["held_frames"] < 5000
    assert 0 < together["figures"]["p50_ms"] <= together["figures"]["p99_ms"]


def test_overload_answers_or_refuses_every_request(
    networks: dict[bool, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "CLIENTS", (2,))
    monkeypatch.setenv("POSE_MAX_IMAGES", "2")
    overload.main(["--seconds", "3", "--weights", str(networks[True])])
    for found in json.loads(capsys.readouterr().out)["apis"].values():
        good, refused = (
            sum(found["statuses"].get(s, 0) for s in some) for some in (overload.GOOD, overload.REFUSED)
        )
        assert good + refused == sum(found["statuses"].values()) == int(3 * found["offered_per_second"])
        assert refused and found["refused_ms"] and found["goodput_of_peak"] > 0
        assert found["client_cpu_ms"] > 0 < found["service_cpu_ms"]


@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="needs slowhttptest")
def test_attacks_hold_connections_while_a_client_is_answered(
    networks: dict[bool, Path], tmp_path: Path
) -> None:
    out = tmp_path / "attack.json"
    few = ["--rounds", "1", "--seconds", "1", "--connections", "20", "--out", str(out)]
    attack.main([*few, "--weights", str(networks[False])])
    found = {row["attack"]: row["figures"] for row in rows(out)}
    assert found.keys() == attack.ATTACKS.keys()
    for name, figures in found.items():
        assert figures["held"] >= (0 if name == "none" else 10)
        assert figures["share"] > 0


def test_attacks_need_their_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="slowhttptest is not installed"):
        attack.main([])


def test_the_steps_of_a_photo_add_up_to_its_time() -> None:
    found = steps.profiled(steps.PHOTO.read_bytes(), 2)
    assert all(seconds > 0 for seconds in found.values()), found
    together = found.pop("together")
    assert sum(found.values()) == pytest.approx(together)
    assert found["detector"] + found["pose network"] > together / 2
