"""Checks the origin of WebSockets, which browsers allow any page to open."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.http.keys import refuse
from service.errors import ForeignOrigin


class OriginMiddleware:
    """Admits WebSockets from programs, from pages of the service's own origin, and from allowed origins.

    It protects a service without keys: a page of another site must not use it through its visitor's browser.
    With keys the check is not needed, because browsers never send a key on their own.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        """allowed: further allowed origins; `*` allows all."""
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self._is_admitted(origin.lower(), headers.get("host", "").lower()):
                error = ForeignOrigin(
                    "a page of another origin may not open a stream of a service without keys"
                )
                return await refuse(error, dict(headers), scope, receive, send)
        await self._app(scope, receive, send)

    def _is_admitted(self, origin: str, host: str) -> bool:
        # the scheme is not compared: behind a proxy that terminates TLS it differs
        own = origin.partition("://")[2] == host
        return own or origin in self._allowed or "*" in self._allowed
