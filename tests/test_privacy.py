"""No library sends data about the machine to its vendor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

# with one of these set, onnxruntime would be quiet anyway, or keep its files elsewhere
QUIET = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")


@pytest.mark.parametrize("module", ["service.inference.runtime", "model.predictors"])
def test_onnxruntime_stores_no_machine_id_and_sends_no_reports(module: str, tmp_path: Path) -> None:
    """With reporting on, it stores an id of the machine and a queue of events."""
    script = f"import {module}, onnxruntime; onnxruntime.SessionOptions()"
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**environment, "HOME": str(tmp_path)}, check=True
    )
    assert list(tmp_path.rglob("*onnxruntime*")) == []


@pytest.mark.parametrize("module", ["service.inference.openvino_session", "model.baselines"])
def test_openvino_stores_no_id_of_the_user_and_sends_no_reports(module: str, tmp_path: Path) -> None:
    """With reporting on, `import openvino` stores an id in `~/intel` and sends an event."""
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
