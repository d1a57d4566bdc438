"""The client as a distribution: what it needs, and what does not get in its way."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service

PROJECT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]


def test_it_needs_a_client_s_libraries_only() -> None:
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert names == {"httpx", "grpcio", "protobuf", "pillow", "tqdm"}


def test_the_range_of_protobuf_is_that_of_the_stubs() -> None:
    """A stub runs with protobuf of its own version or newer, to the end of the next major version."""
    stub = (ROOT / "client" / "lgm_pose_client" / "pb" / "pose_pb2.py").read_text()
    found = re.search(r"# Protobuf Python Version: (\d+)\.(\d+)", stub)
    assert found
    major, minor = map(int, found.groups())
    expected = f"protobuf>={major}.{minor},<{major + 2}"
    service = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for project in (PROJECT, service):
        assert expected in project["dependencies"]


def test_the_range_of_grpc_is_that_of_the_stubs() -> None:
    stub = (ROOT / "client" / "lgm_pose_client" / "pb" / "pose_pb2_grpc.py").read_text()
    found = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub)
    assert found
    assert f"grpcio>={found[1]},<2" in PROJECT["dependencies"]


@pytest.mark.parametrize("order", [("service", "client"), ("client", "service")])
def test_one_process_loads_the_stubs_of_client_and_service(order: tuple[str, str]) -> None:
    imports = {
        "service": "from service.wire.pb import pose_pb2_grpc as a",
        "client": "from lgm_pose_client.pb import pose_pb2_grpc as b",
    }
    code = "; ".join(imports[each] for each in order)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_user_s_own_files_shadow_nothing(service: Service, tmp_path: Path) -> None:
    """A script next to files with names of this repository's folders and modules."""
    for name in ("service.py", "model.py", "client.py", "types.py.txt", "grpc_client.py", "keypoints.py"):
        (tmp_path / name).write_text("raise RuntimeError('shadowed')\n")
    for name in ("service", "model", "client"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('shadowed')\n")
    photo = ROOT / "examples" / "astronaut.jpg"
    script = tmp_path / "script.py"
    script.write_text(
        "from lgm_pose_client import HttpClient\n"
        f"with HttpClient({service.url!r}) as client:\n"
        f"    print(len(client.estimate({str(photo)!r}).persons))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
    command = [sys.executable, "-m", "lgm_pose_client", photo, "--url", service.url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
