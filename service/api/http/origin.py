"""Pages of other sites and WebSockets, which browsers let any page open."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.authentication import refuse
from service.errors import ForeignOrigin


class OriginMiddleware:
    """Admits WebSockets of no page, or of a page from where the service itself is reached.

    For a service without keys, which answers whoever reaches it: a page elsewhere must not reach it through
    its reader's browser. A key, which no browser sends by itself, makes the check needless.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            # not the scheme: before a proxy that ends TLS it is another one
            if origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower():
                error = ForeignOrigin(
                    "a page of another origin may not open a stream of a service without keys"
                )
                return await refuse(error, dict(headers), scope, receive, send)
        await self._app(scope, receive, send)
