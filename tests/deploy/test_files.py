"""The deployment's files: referenced files exist, rights are minimal."""

import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from service.api.grpc.server import LAST_WORDS_S
from service.config import Settings
from tests.support.service import ROOT, Service

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_minimal_rights(name: str) -> None:
    container = SERVICES[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["cpus"] and container["mem_limit"] and container["pids_limit"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & container.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_not_open_to_the_network_unless_asked(name: str) -> None:
    assert SERVICES[name]["ports"]
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in SERVICES[name]["ports"])


def test_images_are_pinned() -> None:
    images = [each["image"] for each in SERVICES.values() if "build" not in each]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 4
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", image) for image in images)


def test_mounts_exist_and_are_read_only() -> None:
    mounts = [volume for each in SERVICES.values() for volume in each.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith("./")]
    named = {mount.partition(":")[0] for mount in mounts if not mount.startswith("./")}
    assert files and all(mount.endswith(":ro") for mount in files)
    assert all((ROOT / mount.partition(":")[0]).is_dir() for mount in files)
    assert named == COMPOSE["volumes"].keys()


def test_every_container_has_a_health_check() -> None:
    assert "HEALTHCHECK" in DOCKERFILE
    assert all("healthcheck" in each for name, each in SERVICES.items() if name != "pose")


def test_the_container_is_given_time_to_drain() -> None:
    grace = int(SERVICES["pose"]["stop_grace_period"].removesuffix("s"))
    assert grace >= longest_stop_s()


def longest_stop_s() -> float:
    """Seconds from SIGTERM to the end: the drain, the last words over each protocol, some for the worker."""
    return float(Settings.model_fields["drain_timeout_s"].default) + 2 * LAST_WORDS_S + 5


def test_the_gpu_file_changes_the_service_alone() -> None:
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert gpu.keys() == {"pose"}
    assert gpu["pose"]["build"]["args"].keys() <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert gpu["pose"]["image"] != SERVICES["pose"]["image"]


def test_copied_files_exist_and_reach_the_build() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {source for sources in copied for source in sources.split()} == allowed
    assert all((ROOT / source).exists() for source in allowed)


@pytest.mark.parametrize("build", ["onnxruntime", "onnxruntime-gpu[cuda,cudnn]"])
def test_requirements_of_the_image(build: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    script = ROOT / "docker" / "requirements.py"
    subprocess.run([sys.executable, script, build, "out.txt"], cwd=tmp_path, check=True)
    written = (tmp_path / "out.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["video"]]
    assert [line.replace(build, "onnxruntime") for line in written] == needed
    assert sum(line.startswith(f"{build}>") for line in written) == 1


def test_prometheus_scrapes_the_service_and_reads_its_rules() -> None:
    folder = ROOT / "docker" / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    host, _, port = job["static_configs"][0]["targets"][0].partition(":")
    assert job["job_name"] == "pose"
    assert host in SERVICES
    assert f"POSE_HTTP_PORT={port}" in DOCKERFILE
    assert all((folder / name).is_file() for name in config["rule_files"])


def test_grafana_finds_its_data_source_and_its_boards() -> None:
    provisioning = ROOT / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (boards,) = yaml.safe_load((provisioning / "dashboards" / "boards.yml").read_text())["providers"]
    scrape = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())["global"]
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert source["uid"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    folder = boards["options"]["path"]
    assert (ROOT / mounts[folder] / home.removeprefix(f"{folder}/")).is_file()
    assert (ROOT / mounts["/etc/grafana/provisioning"] / "datasources").is_dir()


def _health(port: int) -> int:
    script = ROOT / "docker" / "healthcheck.py"
    return subprocess.run([sys.executable, script], env={"POSE_HTTP_PORT": str(port)}).returncode


def test_health_of_a_ready_service(service: Service) -> None:
    assert _health(int(service.url.rpartition(":")[2])) == 0


class NotReady(BaseHTTPRequestHandler):
    """Answers like a draining service."""

    def do_GET(self) -> None:
        """503 to everything."""
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_health_of_a_draining_and_of_a_missing_service() -> None:
    with HTTPServer(("127.0.0.1", 0), NotReady) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert _health(port) == 1
        server.shutdown()
    assert _health(port) == 1
