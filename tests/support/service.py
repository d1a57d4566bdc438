"""The service as a subprocess on free ports of the loopback interface."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
Pixels = npt.NDArray[np.uint8]


class Service:
    """A running service: its addresses and its log."""

    def __init__(self, *, command: Sequence[str] = ("-m", "service"), **settings: object) -> None:
        """command: arguments of the interpreter. settings: without the prefix POSE_."""
        variables = {f"POSE_{name.upper()}": str(value) for name, value in settings.items()}
        ports = {"POSE_HTTP_PORT": "0", "POSE_GRPC_PORT": "0"}
        self._folder = Path(tempfile.mkdtemp())
        self._ended_log: list[dict[str, Any]] | None = None
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**os.environ, **ports, **variables},
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # no terminal, whose end would be the service's
            )
        serving = self.wait_for_log("serving")
        self.url: str = serving["http"]
        self.grpc: str = f"127.0.0.1:{serving['grpc_port']}"

    @property
    def _stdout(self) -> Path:
        """A file, not a pipe: nobody reads it while a benchmark's clients run in this process."""
        return self._folder / "stdout"

    @property
    def _stderr(self) -> Path:
        return self._folder / "stderr"

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log until now, with all answered requests: they are recorded within 0.1 s."""
        if self._ended_log is not None:
            return self._ended_log
        time.sleep(0.3)
        return self._written_log()

    def _written_log(self) -> list[dict[str, Any]]:
        lines = self._stdout.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for_log(self, message: str, **fields: object) -> dict[str, Any]:
        """Wait for the first log line with that message and those fields."""
        wanted, deadline = {"message": message, **fields}, time.monotonic() + 60
        while not (found := [line for line in self._written_log() if line | wanted == line]):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        return found[0]

    def metric(self, name: str, /, **labels: str) -> float:
        """The current value of a metric, 0 without such a series."""
        inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"{name}{{{inner}}}" if inner else name
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{series} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def terminate(self) -> None:
        """Send SIGTERM, as a container runtime does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status; its whole log is then in `log`."""
        status = self.process.wait(timeout=60)
        if self._ended_log is None:
            self._ended_log = self._written_log()
            shutil.rmtree(self._folder)
        return status

    def greeting(self) -> str:
        """Its output at the terminal."""
        return self._stderr.read_text()

    def close(self) -> None:
        """End it if it is still running."""
        if self.process.poll() is None:
            self.terminate()
        self.wait()


Launch = Callable[..., Service]


def encode(pixels: npt.NDArray[Any], suffix: str = ".jpg") -> bytes:
    """Pixels encoded in the format of the suffix."""
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def resident_bytes(service: Service) -> int:
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
