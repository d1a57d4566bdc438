"""The simulation of docs/capacity.md gives the right result where it is known."""

import pytest

from benchmarks.capacity import CORES, PERSONS, TARGET, Costs, core_rows, fleet_rows, simulated

COSTS = Costs(decode=2, detect=10, pose=5, serving=1)


def test_a_frame_costs_its_stages() -> None:
    assert COSTS.frame(1) == 2 + 10 + PERSONS * 5 + 1
    assert COSTS.frame(5) == 2 + 2 + PERSONS * 5 + 1


def test_a_single_camera_never_waits() -> None:
    assert simulated(1, fps=10, cost_ms=20) == {
        "busy": pytest.approx(0.2, rel=0.02),
        "dropped": 0,
        "p50_ms": 20,
        "p99_ms": 20,
    }


@pytest.mark.parametrize(("cameras", "load"), [(10, 2), (20, 4), (50, 10)])
def test_an_overloaded_core_answers_as_much_as_it_can_and_drops_the_rest(cameras: int, load: int) -> None:
    found = simulated(cameras, fps=10, cost_ms=20)
    assert found["busy"] == pytest.approx(1, abs=0.01)
    assert 1 - found["dropped"] == pytest.approx(1 / load, rel=0.03)
    # when the work on a frame starts, it is at most one interval of its camera old
    assert found["p99_ms"] <= 1.1 * 100 + 20


def test_a_core_below_its_limit_drops_almost_no_frames() -> None:
    assert simulated(3, fps=10, cost_ms=20)["dropped"] == 0


def test_rows_cover_both_sides_of_the_limit() -> None:
    loads = [row["load"] for row in core_rows(COSTS)]
    assert min(loads) < TARGET and max(loads) > 1.5


def test_fleets_grow_in_proportion() -> None:
    small, large = (next(r for r in fleet_rows(COSTS) if r["cameras"] == n) for n in (1_000, 100_000))
    assert large["cores"] == pytest.approx(100 * small["cores"], rel=0.01)
    assert large["mbit_per_s"] == 100 * small["mbit_per_s"]
    assert small["machines"] == pytest.approx(small["cores"] / CORES, abs=1)
