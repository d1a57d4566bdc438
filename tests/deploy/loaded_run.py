"""Draws the dashboard of the shipped service under a rising and falling load.

python -m tests.deploy.loaded_run docs/board.png --seconds 120
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.deploy.load import Load
from tests.deploy.prometheus import MISSING, PROMETHEUS, Prometheus
from tests.support.service import ROOT, Service

CALLERS = 6
PHOTO = ROOT / "examples" / "astronaut.jpg"


def run(picture: Path, seconds: float) -> None:
    """Load a service for a number of seconds and write the image of its dashboard."""
    service = Service()
    with tempfile.TemporaryDirectory() as folder, Prometheus(service, Path(folder)) as prometheus:
        start = time.monotonic()
        callers = [
            threading.Thread(target=_call, args=(service, start + begin, start + seconds - begin))
            for begin in (seconds / 2 * caller / CALLERS for caller in range(CALLERS))
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        script = [sys.executable, ROOT / "docker" / "render_board.py", prometheus.url, picture]
        subprocess.run([*script, "--minutes", str(seconds / 60), "--rate-interval", "10s"], check=True)
    service.close()


def _call(service: Service, begin: float, end: float) -> None:
    time.sleep(max(0.0, begin - time.monotonic()))
    load = Load(service, PHOTO.read_bytes())
    while time.monotonic() < end:
        load.round()
    load.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("picture", type=Path, help="file to write")
    parser.add_argument("--seconds", type=float, default=120, help="of load [%(default)g]")
    given = parser.parse_args()
    if PROMETHEUS is None:
        raise SystemExit(MISSING.format("prometheus"))
    run(given.picture, given.seconds)
