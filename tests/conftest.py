"""Images, and the service as a subprocess on free ports of the loopback interface."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from tests.networks import save_networks

ROOT = Path(__file__).parents[1]
Pixels = npt.NDArray[np.uint8]


class Service:
    """A running service: where it listens, what it has logged."""

    def __init__(self, **settings: object) -> None:
        variables = {f"POSE_{name.upper()}": str(value) for name, value in settings.items()}
        ports = {"POSE_HTTP_PORT": "0", "POSE_GRPC_PORT": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**os.environ, **ports, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.log: list[dict[str, Any]] = []
        self._serving: Future[dict[str, Any]] = Future()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        serving = self._serving.result(timeout=60)
        self.url: str = serving["http"]
        self.grpc: str = f"127.0.0.1:{serving['grpc_port']}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(json.loads(line))
            if self.log[-1]["message"] == "serving":
                self._serving.set_result(self.log[-1])
        if not self._serving.done():
            self._serving.set_exception(RuntimeError(f"the service did not start: {self.log}"))

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now, 0 where it has no such series."""
        inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"{name}{{{inner}}}" if inner else name
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"{series} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self) -> None:
        """Ask it to stop, as a container runtime does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status, once all that it logged is in `log`."""
        status = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


Launch = Callable[..., Service]


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Starts services; `slow=True` gives one that takes its time, other arguments are settings."""
    services: list[Service] = []
    networks = {
        slow: save_networks(tmp_path_factory.mktemp("networks"), slow=slow) for slow in (False, True)
    }

    def start(*, slow: bool = False, **settings: object) -> Service:
        services.append(Service(**{"weights": networks[slow], **settings}))
        return services[-1]

    yield start
    for service in services:
        if service.process.poll() is None:
            service.terminate()
            service.wait()


@pytest.fixture(scope="session")
def service(launch: Launch) -> Service:
    """One service for every test that leaves it as it was."""
    return launch()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of one person, 512 x 512."""
    return (ROOT / "examples" / "astronaut.jpg").read_bytes()


@pytest.fixture(scope="session")
def pixels(photo: bytes) -> Pixels:
    """The photo, (512, 512, 3) BGR."""
    return np.asarray(cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def encode(pixels: Pixels, suffix: str = ".jpg") -> bytes:
    """Pixels as an image file of the format that the suffix names."""
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()
