"""The process_* metrics: of this process and, where the worker has one of its own, of both together."""

from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from prometheus_client import PROCESS_COLLECTOR, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_CPU = "process_cpu_seconds"
_SUMMED = (_CPU, "process_resident_memory_bytes", "process_virtual_memory_bytes")


class ProcessesCollector(Collector):
    """Processor time and memory with those of the children; limits and files are this process's own."""

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        ended = getrusage(RUSAGE_CHILDREN)  # so that the sum never falls
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
    """Processes that threads of this one have started and that have not been waited for."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # a thread that has just ended
            continue
    return found
