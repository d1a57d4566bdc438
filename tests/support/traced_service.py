"""Runs the service and records which of its functions a request calls.

`python -m tests.support.traced_service OUT FIRST`.

From the first call of the function FIRST on, OUT gets a line for each function of service/ and model/
when it is called for the first time.
"""

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
_FOLDERS = tuple(f"{ROOT / name}/" for name in ("service", "model"))


class Tracer:
    """Writes `module.function` of each function of the project when it is called for the first time."""

    def __init__(self, out: Path, first: str) -> None:
        self._file = out.open("w", buffering=1)
        self._seen: set[str] = set()
        self._first = first

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(_FOLDERS) or "<" in code.co_name:
            return
        if not self._seen and code.co_qualname != self._first:
            return
        module = Path(code.co_filename).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        name = f"{module}.{code.co_qualname}"
        if name not in self._seen:
            self._seen.add(name)
            self._file.write(f"{name}\n")


def main() -> None:
    """Serve, with the tracer in every thread."""
    from service.cli import main as run

    tracer = Tracer(Path(sys.argv[1]), sys.argv[2])
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    run([])


if __name__ == "__main__":
    main()
