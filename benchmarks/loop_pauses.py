"""A service that logs the pauses of its event loop: `python -m benchmarks.loop_pauses`, and their reader.

A callback comes back to the event loop every millisecond. A pause is the time by which it is late. Its parts:

- cpu: the loop's thread worked, that is, something long ran on the event loop;
- waited: another thread worked while the loop waited for the interpreter's lock; at most this, because a
  thread that works without the lock counts too;
- the rest, in which other processes had the processors. It says nothing of the service.

It needs Linux.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time, sleep, thread_time

from tests.support.service import Service

logger = logging.getLogger(__name__)
COMMAND = ("-m", "benchmarks.loop_pauses")
_INTERVAL_S = 0.001
_LOGGED_S = 0.002  # shorter pauses are not logged
_MESSAGE = "the event loop paused"


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of the event loop and two of its parts, in ms."""

    late: float = 0
    cpu: float = 0
    waited: float = 0

    @property
    def own(self) -> float:
        """The part that is the service's own."""
        return self.cpu + self.waited

    def __str__(self) -> str:
        return f"{self.own:.0f} (cpu {self.cpu:.0f}, waited {self.waited:.0f})"


class Pauses:
    """The largest pause of a service's event loop in a time; see `largest_pause`."""

    def __init__(self) -> None:
        self.largest = Pause()


@contextmanager
def largest_pause(service: Service) -> Iterator[Pauses]:
    """Finds the pause with the largest part of its own, while open. service: started with COMMAND."""
    pauses, start = Pauses(), len(service.log)
    yield pauses
    sleep(0.05)  # the log is read on another thread
    logged = [line for line in service.log[start:] if line["message"] == _MESSAGE]
    found = [Pause(line["late"], line["cpu"], line["waited"]) for line in logged]
    pauses.largest = max(found, key=lambda pause: pause.own, default=Pause())


async def _log_pauses() -> None:
    """Logs each pause of the event loop, until it is cancelled."""
    schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def starved() -> float:
        """Seconds in which this thread was ready and had no processor."""
        return int(os.pread(schedstat, 64, 0).split()[1]) / 1e9

    while True:
        start, thread, process, ready = perf_counter(), thread_time(), process_time(), starved()
        await asyncio.sleep(_INTERVAL_S)
        late = perf_counter() - start - _INTERVAL_S
        if late > _LOGGED_S:
            cpu = thread_time() - thread
            rest = late - cpu - (starved() - ready)
            waited = max(0.0, min(rest, process_time() - process - cpu))
            parts = {"late": late, "cpu": min(cpu, late), "waited": waited}
            logger.info(_MESSAGE, extra={name: round(1e3 * part, 1) for name, part in parts.items()})


def main() -> None:
    """Serve."""
    from service import server
    from service.config import read_settings

    class MeteredServer(server.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            self._meter = asyncio.create_task(_log_pauses())
            await super().startup(sockets)

    server.Server = MeteredServer  # type: ignore[misc]
    server.serve(read_settings())


if __name__ == "__main__":
    main()
