"""A service under a limit of memory, as a container has it: a control group of its own (Linux, root)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_V2 = "memory.max", "memory.peak", "memory.events"
_V1 = "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
# moves the interpreter into the group, then runs the service
_JOIN = (
    "import pathlib, runpy, sys; pathlib.Path(sys.argv.pop(1)).write_text('0');"
    " runpy.run_module('service', run_name='__main__')"
)


@dataclass(frozen=True)
class MemoryGroup:
    """A control group. folder: its files, named by version."""

    folder: Path
    names: tuple[str, str, str]

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of the interpreter that run the service in the group."""
        return "-c", _JOIN, str(self.folder / "cgroup.procs")

    @property
    def peak(self) -> int:
        """The largest use in bytes, with the files that it has read."""
        return int((self.folder / self.names[1]).read_text())

    @property
    def killed(self) -> int:
        """Number of processes that the kernel killed at the limit."""
        lines = (line.split() for line in (self.folder / self.names[2]).read_text().splitlines())
        return sum(int(value) for name, value in lines if name == "oom_kill")


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A group of at most `limit` bytes below that of this process; removed at the end. Raises OSError."""
    parent, names = _own_group()
    folder = parent / "pose-benchmark"
    folder.mkdir()
    try:
        (folder / names[0]).write_text(str(limit))
        yield MemoryGroup(folder, names)
    finally:
        folder.rmdir()


def _own_group() -> tuple[Path, tuple[str, str, str]]:
    """The folder of this process's group and the names of its files. Raises OSError."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return root / "memory" / path.lstrip("/"), _V1
        if not controllers and (root / "cgroup.controllers").exists():
            return root / path.lstrip("/"), _V2
    raise OSError("there is no control group for memory")
