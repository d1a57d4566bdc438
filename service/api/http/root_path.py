"""The path of the service behind a proxy."""

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPathMiddleware:
    """Sets ASGI's `root_path`, whether the proxy removes the path from requests or forwards it.

    Requests without the path, such as health checks that bypass the proxy, are answered too. Routes,
    redirects and the OpenAPI document use `root_path`.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """root_path: such as /pose."""
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "lifespan":
            path: str = scope["path"]
            if path != self._root_path and not path.startswith(f"{self._root_path}/"):
                path = self._root_path + path
            scope = {**scope, "path": path, "root_path": self._root_path}
        await self._app(scope, receive, send)
