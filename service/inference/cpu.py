"""Which processors this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """Whole processors, at least 1, that the affinity and the cgroup quota (v1 and v2) allow.

    root: the folder in which `proc` and `sys` are mounted.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([affinity, *_quotas(root)])))


def is_whole_machine(threads: int) -> bool:
    """Whether the machine has `threads` processors, and this process may use all of them."""
    return threads == available_cpus() == os.cpu_count()


def _quotas(root: Path) -> Iterator[float]:
    """CPU quotas, in processors, of the cgroups of this process and their ancestors."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
        else:
            continue
        inner = mount / path.lstrip("/")
        for folder in (inner, *inner.parents):
            yield from _quota(folder)
            if folder == mount:
                break


def _quota(folder: Path) -> Iterator[float]:
    v2 = _read(folder / "cpu.max").split()
    v1 = [_read(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    for quota, period in (pair for pair in (v2, v1) if len(pair) == 2):
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
