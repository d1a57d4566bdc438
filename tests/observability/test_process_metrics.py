"""The process_* metrics, with the worker as a thread and as a process."""

import psutil
import pytest

from tests.support.clients import RestClient
from tests.support.service import Launch

CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"


@pytest.mark.parametrize("worker", ("thread", "process"))
def test_cpu_time_and_memory_include_all_processes(launch: Launch, photo: bytes, worker: str) -> None:
    service = launch(worker=worker)
    client = RestClient(service)
    for _ in range(5):
        client.estimate(photo)
    own = psutil.Process(service.process.pid)
    every = [own, *own.children()]
    assert len(every) == (2 if worker == "process" else 1)
    used = sum(sum(each.cpu_times()[:2]) for each in every)
    assert service.metric(CPU) >= used
    memory = sum(each.memory_info().rss for each in every)
    assert service.metric(MEMORY) == pytest.approx(memory, rel=0.1)
    if worker == "process":
        before = service.metric(CPU)
        every[1].kill()
        service.wait_for_log("the worker is back")
        assert service.metric(CPU) >= before
        assert service.metric("process_max_fds") == own.rlimit(psutil.RLIMIT_NOFILE)[0]
    client.close()
