"""Pages of other sites and WebSockets, which browsers let any page open."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.authentication import refuse
from service.errors import ForeignOrigin


class OriginMiddleware:
    """Admits WebSockets of no page, of a page from where the service itself is reached, or of one allowed.

    For a service without keys, which answers whoever reaches it: a page elsewhere must not reach it through
    its reader's browser. A key, which no browser sends by itself, makes the check needless.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        """allowed: other origins whose pages may open one; `*` is any."""
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
        # not the scheme of its own page: before a proxy that ends TLS it is another one
        own = origin.partition("://")[2] == host
        return own or origin in self._allowed or "*" in self._allowed
