"""The command `lgm-pose doctor` finds errors of a set-up before it serves."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.networks import save_networks
from tests.support.service import ROOT


def doctor(weights: Path, **settings: object) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and the findings by verdict."""
    given = {"weights": weights, "http_port": 0, "grpc_port": 0, **settings}
    done = subprocess.run(
        [sys.executable, "-m", "service", "doctor"],
        cwd=ROOT,
        env={**os.environ, **{f"POSE_{name.upper()}": str(value) for name, value in given.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    found: dict[str, list[str]] = {"ok": [], "warning": [], "error": []}
    for line in done.stdout.split("\n\n")[0].splitlines():
        verdict, _, text = line.partition(" ")
        found[verdict].append(text.strip())
    return done.returncode, found


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_networks(tmp_path)


def test_a_good_set_up_has_no_errors(weights: Path) -> None:
    status, found = doctor(weights)
    assert (status, found["error"]) == (0, [])
    assert any(str(weights) in text and "empty picture" in text for text in found["ok"])


def test_a_port_in_use_is_an_error(weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, found = doctor(weights, grpc_port=taken.getsockname()[1])
    assert status == 1
    (error,) = found["error"]
    assert error.startswith("POSE_GRPC_PORT: cannot listen")


def test_networks_of_another_format_are_an_error(tmp_path: Path) -> None:
    status, found = doctor(save_networks(tmp_path, format="7"))
    assert status == 1
    assert "format '7'" in found["error"][0]


def test_a_key_without_a_certificate_is_an_error(weights: Path) -> None:
    status, found = doctor(weights, tls_key="key.pem")
    assert status == 1
    assert "TLS needs both" in found["error"][0]


def test_more_threads_than_processors_are_a_warning(weights: Path) -> None:
    status, found = doctor(weights, threads=1000)
    assert status == 0
    assert any("POSE_THREADS" in text for text in found["warning"])


def test_too_few_open_files_are_a_warning(weights: Path) -> None:
    _, found = doctor(weights, max_connections=10_000_000)
    assert any("ulimit -n 20000064" in text for text in found["warning"])
