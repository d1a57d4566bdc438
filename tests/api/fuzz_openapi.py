"""The whole OpenAPI document against a running service: python -m tests.api.fuzz_openapi 100"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.networks import save_networks
from tests.support.service import ROOT, Service

_COMMAND = (sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()")


def fuzz(url: str, examples: int, *, seed: int = 1) -> tuple[int, str]:
    """The number of requests, and a report if an answer does not match the document.

    examples: random requests per operation, in addition to those that cover each of its constraints.
    """
    command = [
        *_COMMAND,
        f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
        "run",
        f"{url}/openapi.json",
        "--phases=examples,coverage,fuzzing",
        f"--max-examples={examples}",
        f"--seed={seed}",
        "--generation-database=none",
        "--request-timeout=60",
        "--suppress-health-check=all",
        "--continue-on-failure",
        "--no-color",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:  # it leaves files where it runs
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    made = re.search(r"(\d+) generated", done.stdout)
    return int(made[1]) if made else 0, done.stdout + done.stderr if done.returncode else ""


def main() -> None:
    """Fuzz a service with tiny networks and print the result."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(weights=save_networks(Path(folder)))
        made, failures = fuzz(service.url, int(sys.argv[1]))
        service.close()
    print(failures or f"{made} requests, 0 failures")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
