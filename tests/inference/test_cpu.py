"""The number of processors, from synthetic cgroup trees."""

import os
from pathlib import Path

import pytest

from service.inference import cpu
from service.inference.cpu import available_cpus, is_whole_machine


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("200000 100000", 2),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("max 100000", 8),
        ("", 8),
        ("1600000 100000", 8),
    ],
)
def test_cgroup_v2(tmp_path: Path, quota: str, cpus: int) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{quota}\n"}
    assert available_cpus(write(tmp_path, files)) == cpus


def test_the_smallest_quota_of_the_ancestors_applies(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/container\n",
        "sys/fs/cgroup/pod/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
    }
    assert available_cpus(write(tmp_path, files)) == 3


@pytest.mark.parametrize(("quota", "cpus"), [("200000", 2), ("-1", 8)])
def test_cgroup_v1(tmp_path: Path, quota: str, cpus: int) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    assert available_cpus(write(tmp_path, files)) == cpus


def test_without_a_cgroup_the_affinity_applies(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 8


def test_a_quota_or_an_affinity_leaves_a_part_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cpu, "available_cpus", lambda: 8)
    assert is_whole_machine(8)
    assert not is_whole_machine(4)
    monkeypatch.setattr(cpu, "available_cpus", lambda: 2)
    assert not is_whole_machine(2)
