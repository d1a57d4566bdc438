"""The stack of docker-compose.yml, started on free ports and stopped again."""

import json
import os
import shutil
import subprocess
from typing import Any

import yaml

from tests.support.service import ROOT

PROJECT = "lgm-pose-test"
_FILES = ("--file", "docker-compose.yml", "--file", "tests/compose/patience.yml")
_ENVIRONMENT = {"HTTP_PORT": "0", "GRPC_PORT": "0", "PROMETHEUS_PORT": "0", "POSE_CPUS": "1"}


def docker(*arguments: str) -> str:
    """Standard output of a docker command. Raises CalledProcessError."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def engine_runs() -> bool:
    """Whether a Docker engine and compose are available."""
    found = shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    return bool(found and _compose_command())


def _compose_command() -> list[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def fetch(service: str) -> None:
    """Pull the image of a service, or use another tag of it."""
    image: str = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]["image"]
    for command in (
        ["image", "inspect", image],
        ["pull", image],
        ["tag", f"{image.partition(':')[0]}:latest", image],
    ):
        if subprocess.run(["docker", *command], capture_output=True).returncode == 0:
            return
    raise RuntimeError(f"{image} is neither here nor can it be pulled")


def compose(*arguments: str) -> str:
    """Standard output of a compose command on the project's stack. Raises CalledProcessError."""
    command = [*_compose_command(), "--project-name", PROJECT, *_FILES, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **_ENVIRONMENT}, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def container(service: str) -> str:
    """Id of a service's container, running or not."""
    label = f"label=com.docker.compose.project={PROJECT}"
    of_service = f"label=com.docker.compose.service={service}"
    return docker("ps", "--all", "--quiet", "--filter", label, "--filter", of_service).strip()


def published(service: str, port: int) -> str:
    """host:port on this machine of a container's port."""
    return docker("port", container(service), str(port)).splitlines()[0]


def inspect(service: str) -> dict[str, Any]:
    """The engine's description of a container."""
    found: dict[str, Any] = json.loads(docker("inspect", container(service)))[0]
    return found
