"""`lgm-pose estimate` and `lgm-pose stream`: the client's command with a temporary service."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

# the temporary service listens on free ports of loopback and needs no keys
_OVERRIDES = {"POSE_HOST": "127.0.0.1", "POSE_HTTP_PORT": "0", "POSE_GRPC_PORT": "0"}
_NOT_INHERITED = ("POSE_API_KEY", "POSE_TLS_", "POSE_RATE_LIMIT")
# with one of these options the command needs no service, or the user names a running one
_WITHOUT_SERVICE = {"-h", "--help", "--url", "--address"}


def run_client(command: str, arguments: Sequence[str]) -> None:
    """Run a command of lgm-pose-client with a service that runs only for this command, unless it names one.

    Exits with a one-line message when the client is not installed or the service does not start.
    """
    try:
        from lgm_pose_client.__main__ import main
    except ImportError as error:
        raise SystemExit(f"{error}: pip install 'lgm-pose-client[video]'") from None
    prefix, prog = [] if command == "estimate" else [command], f"lgm-pose {command}"
    if _WITHOUT_SERVICE & {argument.partition("=")[0] for argument in arguments}:
        return main([*prefix, *arguments], prog=prog)
    with _service() as (url, address):
        where = ["--url", url] if command == "estimate" else ["--address", address]
        main([*prefix, *arguments, *where], prog=prog)


@contextmanager
def _service() -> Iterator[tuple[str, str]]:
    """REST URL and gRPC address of a running service. Exits when it does not start."""
    early: list[int] = []  # signals that come before there is a service to end
    interrupt = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: early.append(number))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    child = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        env={**inherited, **_OVERRIDES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        signal.signal(signal.SIGINT, interrupt)
        # by default these two end this process without the last lines
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        for missed in early:
            signal.raise_signal(missed)
        assert child.stdout is not None
        log = (json.loads(line) for line in child.stdout)
        started = next((line for line in log if line["message"] == "serving"), None)
        if started is None:
            raise SystemExit(child.communicate()[1].strip())
        Thread(target=child.communicate, daemon=True).start()  # a full pipe blocks the service
        yield started["http"], f"127.0.0.1:{started['grpc_port']}"
    finally:
        child.terminate()
        child.wait()
