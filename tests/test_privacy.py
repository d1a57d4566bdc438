"""What the libraries would tell of a machine to their makers stays untold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT

# with one of these set, onnxruntime would be quiet anyway, or keep its files elsewhere
QUIET = ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")


@pytest.mark.parametrize("module", ["service.inference.runtime", "model.predictors"])
def test_onnxruntime_gives_the_machine_no_number_and_reports_nothing(module: str, tmp_path: Path) -> None:
    """Where it reports, it keeps a number of the machine and a store of what is to be sent."""
    script = f"import {module}, onnxruntime; onnxruntime.SessionOptions()"
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**environment, "HOME": str(tmp_path)}, check=True
    )
    assert list(tmp_path.rglob("*onnxruntime*")) == []
