"""A real Prometheus on a free port that scrapes a service with the deployed configuration."""

import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from tests.support.service import ROOT, Service

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
MISSING = "no {} on this machine (Debian's package prometheus has it)"
_FOLDER = ROOT / "docker" / "prometheus"


class Prometheus:
    """A running Prometheus; `folder` is for its data."""

    def __init__(self, service: Service, folder: Path) -> None:
        """Raises RuntimeError when it does not start."""
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(_config(service)))
        self._process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                "--enable-feature=exemplar-storage",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._wait_until_ready()
        self._http = httpx.Client(base_url=self.url, timeout=30)

    def _wait_until_ready(self) -> str:
        assert self._process.stderr is not None
        log, url = "", ""
        for line in self._process.stderr:
            log += line
            if "Listening on" in line and (address := re.search(r"address=(\S+)", line)):
                url = f"http://{address[1]}"
            if "ready to receive web requests" in line:
                return url
        raise RuntimeError(f"Prometheus did not start:\n{log}")

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The current series of an expression: each with its labels (`metric`) and its `value`."""
        answer = self._http.get("/api/v1/query", params={"query": expr})
        assert answer.status_code == 200, f"{expr}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def exemplars(self, expr: str) -> list[dict[str, Any]]:
        """All exemplars of the series of an expression."""
        answer = self._http.get("/api/v1/query_exemplars", params={"query": expr, "start": 0, "end": 2**32})
        series: list[dict[str, Any]] = answer.json()["data"]
        return [exemplar for each in series for exemplar in each["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        groups = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        self._process.terminate()
        self._process.communicate(timeout=30)


def _config(service: Service) -> dict[str, Any]:
    """The deployed configuration with another target and shorter intervals."""
    config: dict[str, Any] = yaml.safe_load((_FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(_FOLDER / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [service.url.removeprefix("http://")]}]
    return config
