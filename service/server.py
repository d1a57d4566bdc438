"""Both servers in one process, until SIGTERM or SIGINT."""

import asyncio
import atexit
import gc
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service.api.grpc.server import LAST_WORDS_S
from service.api.http.slow_clients import Connections, Limits, PatientHttp, PatientWebSocket, check_hooks
from service.config import Settings, listed
from service.errors import ArtefactError, ConfigError
from service.observability.access_log import record_answered
from service.observability.logs import configure_logs
from service.observability.tracing import start_tracing
from service.ports import check_port, is_any_ipv6, listen
from service.security.tls import Tls

logger = logging.getLogger("service")
_PONG_TIMEOUT_S = 300
_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
]
_PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.jpg"


class Server(uvicorn.Server):
    """uvicorn that announces its address, drains after the first signal and exits with status 0."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        tls: Tls | None = app.state.security.tls
        check_hooks()
        limits = Limits(
            head_s=settings.head_timeout_s,
            idle_s=settings.idle_timeout_s,
            transfer_s=settings.receipt_timeout_s,
            connections=settings.max_connections,
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(  # type: ignore[arg-type]
                    PatientHttp, limits=limits, idle=Connections(), receiving=Connections()
                ),
                host=settings.host,
                port=settings.http_port,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=listed(settings.trusted_proxies),
                headers=_HEADERS,
                ssl_context_factory=None if tls is None else lambda *_: tls.context(),
                ws=partial(PatientWebSocket, limits=limits),  # type: ignore[arg-type]
                ws_max_size=settings.max_body_bytes,
                ws_per_message_deflate=False,  # images are already compressed
                # a pong waits behind the frames that are held back
                ws_ping_timeout=_PONG_TIMEOUT_S,
                timeout_keep_alive=math.ceil(settings.idle_timeout_s),
            )
        )
        self._state, self._drain_timeout_s = app.state, settings.drain_timeout_s
        self._handshake_s = None if tls is None else settings.head_timeout_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._on_terminal = _ends_with_its_terminal()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then announce the address."""
        self._loop = loop = asyncio.get_running_loop()
        # uvicorn has no setting for the 60 s of a handshake
        listen = partial(loop.create_server, ssl_handshake_timeout=self._handshake_s)
        loop.create_server = listen  # type: ignore[method-assign]
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._hang_up if self._on_terminal else self._reload)
        await super().startup(sockets)
        # a full garbage collection would visit every object of all modules and stop the event loop for 100 ms
        gc.collect()
        gc.freeze()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "http" if self._handshake_s is None else "https"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        grpc_port = self._state.grpc_port
        print(_greeting(url, grpc_port, self._state.security.keys is not None), file=sys.stderr, flush=True)
        logger.info("serving", extra={"http": url, "grpc_port": grpc_port})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for streams to end, which uvicorn would cut, then shut down like uvicorn."""
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_timeout_s
        self._draining = asyncio.create_task(self._state.estimator.drain(self._drain_timeout_s))
        await asyncio.wait((self._draining,))
        # answers that are still being sent get the rest of the same time
        self.config.timeout_graceful_shutdown = max(LAST_WORDS_S, math.ceil(deadline - loop.time()))
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests at once; a second SIGINT ends without waiting, with status 130.

        A second SIGTERM changes nothing: `make` and others forward a signal that the whole group received.
        """
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)

    def _reload(self) -> None:
        """Load the current network files, unless they are invalid."""
        asyncio.get_running_loop().run_in_executor(None, self._state.worker.reload)

    def _hang_up(self) -> None:
        """Handle the loss of the terminal, after which writing to it fails."""
        logger.info("the terminal was closed")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            if stream.isatty():
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        self.handle_exit(signal.SIGHUP, None)

    def _drain(self) -> None:
        logger.info("draining")
        self._state.estimator.draining.set()
        if self.force_exit and self._draining is not None:
            self._draining.cancel()


def serve(settings: Settings) -> None:
    """Serve until a signal. Exits with a one-line message if that is not possible."""
    configure_logs()
    start_tracing()
    from service.app import create_app

    check_port("POSE_HTTP_PORT", settings.host, settings.http_port)
    check_port("POSE_GRPC_PORT", settings.host, settings.grpc_port)
    try:
        app = create_app(settings)
    except (ArtefactError, ConfigError) as error:
        raise SystemExit(str(error)) from None
    if app.state.security.keys is None and settings.tls_client_ca is None:
        _warn_if_public(settings.host)
    # asyncio makes a socket on `::` IPv6 only
    sockets = [listen(settings.host, settings.http_port)] if is_any_ipv6(settings.host) else None
    server = Server(app, settings)
    try:
        server.run(sockets)
    finally:
        record_answered()  # also those that a second SIGINT ended
        if server.force_exit:
            _exit_now()


def _exit_now() -> NoReturn:
    """Exit with the status of an interrupt and leave the runners as they are.

    An ordinary exit ends their threads, and the process aborts when one is inside a network.
    """
    atexit._run_exitfuncs()
    os._exit(128 + signal.SIGINT)


def _ends_with_its_terminal() -> bool:
    """Whether SIGHUP should end the process: it has a terminal and was not started by `nohup`."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _warn_if_public(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        logger.warning(
            "%s is reachable from outside, and no keys are required: set POSE_API_KEYS or POSE_API_KEYS_FILE",
            host,
        )


def _greeting(url: str, grpc_port: int, with_key: bool) -> str:
    photo = _PHOTO if _PHOTO.exists() else "photo.jpg"
    key = '-H "Authorization: Bearer $POSE_API_KEY" ' if with_key else ""
    return (
        f"\n  page   {url}/\n  docs   {url}/docs\n  gRPC   port {grpc_port}\n"
        f"  try    curl -s {key}-F image=@{photo} {url}/v1/poses\n"
    )
