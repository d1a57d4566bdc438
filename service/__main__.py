"""`python -m service`: both servers, until SIGTERM or SIGINT."""

import argparse
import asyncio
import ipaddress
import logging
import math
import os
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.config import Settings, describe_settings, read_settings
from service.errors import ArtefactError
from service.logs import configure_logs

logger = logging.getLogger("service")
_PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.jpg"


class Server(uvicorn.Server):
    """uvicorn that says where it listens, drains at the first signal and leaves with status 0."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.http_port,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
            )
        )
        self._state = app.state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then announce it."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        grpc_port = self._state.grpc_port
        logger.info("serving", extra={"http": url, "grpc_port": grpc_port})
        print(_greeting(url, grpc_port), file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new work at once; a second signal ends without waiting."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._state.estimator.draining.set)


def main() -> None:
    """Read the settings, serve, and exit with one line when that cannot be done."""
    argparse.ArgumentParser(
        prog="python -m service",
        description="Pose estimation over REST and gRPC. Settings come from the environment:",
        epilog=describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    settings = read_settings()
    configure_logs()
    # OpenCV reads its own limit once, when it is imported: a second line behind service.image
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(settings.max_pixels)
    from service.app import create_app

    _warn_if_public(settings.host)
    try:
        app = create_app(settings)
    except ArtefactError as error:
        raise SystemExit(str(error)) from None
    Server(app, settings).run()


def _warn_if_public(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        logger.warning("%s is reachable from outside, and the service asks nobody for a key", host)


def _greeting(url: str, grpc_port: int) -> str:
    photo = _PHOTO if _PHOTO.exists() else "photo.jpg"
    return (
        f"\n  page   {url}/\n  docs   {url}/docs\n  gRPC   port {grpc_port}\n"
        f"  try    curl -s -F image=@{photo} {url}/v1/poses\n"
    )


if __name__ == "__main__":
    main()
