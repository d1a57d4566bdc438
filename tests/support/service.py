"""The service as a subprocess on free ports of the loopback interface."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
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
        stderr, path = tempfile.mkstemp()
        self._output = Path(path)
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **ports, **variables},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,  # no terminal, whose end would be the service's
        )
        os.close(stderr)
        self.log: list[dict[str, Any]] = []
        self._logged = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        serving = self.wait_for_log("serving")
        self.url: str = serving["http"]
        self.grpc: str = f"127.0.0.1:{serving['grpc_port']}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._logged:
                self.log.append(json.loads(line))
                self._logged.notify_all()

    def wait_for_log(self, message: str, **fields: object) -> dict[str, Any]:
        """Wait for the first log line with that message and those fields."""
        wanted = {"message": message, **fields}

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.log if line | wanted == line]

        with self._logged:
            assert self._logged.wait_for(lines, timeout=60), self.log
            return lines()[0]

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
        self._reader.join(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._output.unlink(missing_ok=True)
        return status

    def greeting(self) -> str:
        """Its output at the terminal."""
        return self._output.read_text()

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
