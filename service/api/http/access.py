"""For every HTTP request: an id, a log record, a problem after a crash, and a readable refusal."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.problem import problem, unforeseen_problem
from service.observability.access_log import Access, observed, request_id
from service.observability.tracing import TRACEPARENT, join_trace

logger = logging.getLogger(__name__)
VIDEOS = "/v1/videos"
# POST requests for persons, and their labels in metrics; other requests are not recorded
RECORDED = {
    "/v1/poses": "rest",
    # a video takes as long as it is, so it is not among the latencies of requests
    VIDEOS: "rest_video",
}
_MAX_QUERY = 2048  # bytes; no parameter needs more, and validation of a long query takes long
# refusals that are sent without reading the body, which would let clients without a key send bodies
_AT_ONCE = (401, 403, 408, 413)


def access_of(scope: Scope) -> Access:
    """The record of the current request."""
    access: Access = scope["state"]["access"]
    return access


@dataclass(frozen=True)
class BodyLimits:
    """Limits of the bodies of refused requests, which are read and dropped. by_path: other max_bytes."""

    max_bytes: int
    timeout_s: float
    by_path: Mapping[str, int] = field(default_factory=dict)


class AccessMiddleware:
    """Gives each request an id, turns a crash into a problem, and records requests for persons.

    A refusal is sent after the body is read: a client that is still sending would only see a reset.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits, recorded: Mapping[str, str]) -> None:
        """recorded: the paths of RECORDED and those of further APIs, with their labels in metrics."""
        self._app, self._limits, self._recorded = app, limits, recorded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(reversed(scope["headers"]))  # the first of several with one name
        join_trace(headers.get(TRACEPARENT.encode(), b"").decode("latin-1"))
        ident = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        body = _Body(receive, headers)
        api = self._recorded.get(get_route_path(scope)) if scope["method"] == "POST" else None
        if api is None:
            return await self._answer(scope, body, send, Access(ident, "500"))
        with observed(api, ident, code="500") as access:
            await self._answer(scope, body, send, access)

    async def _answer(self, scope: Scope, body: "_Body", send: Send, access: Access) -> None:
        started = False
        scope.setdefault("state", {})["access"] = access
        limit = self._limits.by_path.get(get_route_path(scope), self._limits.max_bytes)

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                access.code = str(message["status"])
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = access.request_id
                headers.setdefault("cache-control", "no-store")
                if message["status"] >= 400 and not body.read:
                    if message["status"] not in _AT_ONCE and not body.held_back:
                        await body.drop(limit, self._limits.timeout_s)
                        access.receipt_ended()
                    if not body.read:
                        headers["connection"] = "close"
            await send(message)

        try:
            if len(scope["query_string"]) > _MAX_QUERY:
                refusal = problem(414, "query_too_long", f"the query is longer than {_MAX_QUERY} bytes")
                return await refusal(scope, body.receive, send_on)
            await self._app(scope, body.receive, send_on)
        except Exception:
            logger.exception("request failed", extra={"request_id": access.request_id})
            if started:
                raise
            await unforeseen_problem()(scope, body.receive, send_on)


class _Body:
    """The body of the current request. read: it is complete. held_back: until the service requests it."""

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        self._receive = receive
        self._received = 0
        self.read = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        self.held_back = headers.get(b"expect", b"").lower() == b"100-continue"

    async def receive(self) -> Message:
        """See ASGI."""
        self.held_back = False
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self.read = self.read or not message.get("more_body", False)
        return message

    async def drop(self, max_bytes: int, timeout_s: float) -> None:
        """Read the rest, up to a limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.read and self._received < max_bytes:
                    await self.receive()
