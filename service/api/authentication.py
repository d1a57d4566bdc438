"""Keys over both protocols: every route and call that is not listed as open requires one."""

from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
from fastapi import FastAPI
from starlette._utils import get_route_path  # as Starlette's router reads the path, under any root path
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.grpc.context import Context, abort, identify
from service.api.http.problem import pose_problem
from service.api.http.schemas import problems
from service.errors import PoseError
from service.observability.access_log import observed, observed_call, request_id
from service.security.client import CLIENT
from service.security.keys import Keys, shown_key

# health, documentation, and the page, which shows nothing before it has a key
_OPEN_PATHS = frozenset(
    {"/", "/docs", "/healthz", "/metrics", "/openapi.json", "/readyz", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_FOLDER = "/page/"
_OPEN_CALLS = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_SUBPROTOCOL = "bearer."  # followed by the key in base64url; a page can send no headers with a WebSocket


class KeyMiddleware:
    """Admits HTTP requests and WebSockets with a known key that is within its rate."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan" or _is_open(get_route_path(scope)):
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        key = shown_key(headers.get("authorization", ""), headers.get("x-api-key", ""))
        try:
            _admit(self._keys, key or _key_among(scope.get("subprotocols", ())))
        except PoseError as error:
            return await refuse(error, headers, scope, receive, send)
        await self._app(scope, receive, send)


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls with a known key that is within its rate."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See grpc.aio.ServerInterceptor."""
        details = handler_call_details
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN_CALLS):
            return handler
        metadata = {name: value for name, value in details.invocation_metadata if isinstance(value, str)}
        try:
            key = shown_key(metadata.get("authorization", ""), metadata.get("x-api-key", ""))
            _admit(self._keys, key)
        except PoseError as error:
            return _refusal(error, "grpc_stream" if handler.request_streaming else "grpc")
        return handler


def declare_keys(app: FastAPI) -> None:
    """Declare the keys in the OpenAPI document: operations that are not open may answer 401 and 429."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = described()
            document.setdefault("components", {})["securitySchemes"] = schemes
            refusals = {str(status): answer for status, answer in problems(401, 429).items()}
            for path, operations in document["paths"].items():
                for operation in operations.values() if not _is_open(path) else ():
                    operation["security"] = [{name: []} for name in schemes]
                    operation["responses"] = {**refusals, **operation["responses"]}
        return described()

    app.openapi = openapi  # type: ignore[method-assign]


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER)


def _admit(keys: Keys, key: str) -> None:
    """Identify the client and take a token of its rate. Raises Unauthenticated or RateLimited."""
    client = keys.client(key)
    CLIENT.set(client)
    client.try_acquire()


def _key_among(subprotocols: list[str]) -> str:
    """The key among the subprotocols of a WebSocket; empty if there is none."""
    for each in subprotocols:
        if each.startswith(_SUBPROTOCOL):
            encoded = each.removeprefix(_SUBPROTOCOL)
            with suppress(ValueError):
                return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    return ""


async def refuse(
    error: PoseError, headers: dict[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer a request or handshake with a problem before it reaches its route."""
    response = pose_problem(error)
    if scope["type"] == "websocket":  # AccessMiddleware records requests
        ident = request_id(headers.get("x-request-id"))
        response.headers["x-request-id"] = ident
        with observed("websocket", ident, code=error.grpc_status.name):
            pass
    await response(scope, receive, send)


def _refusal(error: PoseError, api: str) -> Handler:
    """A handler for all kinds of calls that ends them before their messages are read."""

    async def end(_: object, context: Context) -> None:
        try:
            with observed_call(api, identify(context)):
                raise error
        except PoseError:
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(end)
