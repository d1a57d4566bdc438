"""The process_* metrics: of this process, including the worker process if there is one."""

from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from prometheus_client import PROCESS_COLLECTOR, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_CPU = "process_cpu_seconds"
_SUMMED = (_CPU, "process_resident_memory_bytes", "process_virtual_memory_bytes")


class ProcessesCollector(Collector):
    """CPU time and memory of this process and its children; limits and files of this process only."""

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        ended = getrusage(RUSAGE_CHILDREN)  # so the sum never decreases
        sums = dict.fromkeys(_SUMMED, 0.0) | {_CPU: ended.ru_utime + ended.ru_stime}
        for pid in _children():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                if metric.name in sums:
                    sums[metric.name] += metric.samples[0].value
        for metric in PROCESS_COLLECTOR.collect():
            if metric.name in sums:
                (sample,) = metric.samples
                metric.samples = [sample._replace(value=sample.value + sums[metric.name])]
            yield metric


def _children() -> list[int]:
    """Child processes of all threads of this process that have not been waited for."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread has just ended
            continue
    return found
