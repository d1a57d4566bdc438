"""The pages at `/` and `/docs`: files of service/page and Swagger UI; nothing from other sites."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

_FILES = Path(__file__).parents[2] / "page"
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "media-src": "blob:",  # a video file chosen by the visitor
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
}
# Swagger UI has images in its style sheet and generates HTML
_DOCS_POLICY = {**_POLICY, "img-src": "'self' data:"}
del _DOCS_POLICY["require-trusted-types-for"]


class _Files(StaticFiles):
    """Files with the pages' headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        policy = _DOCS_POLICY if path == "docs.html" else _POLICY
        directives = (f"{name} {value}" for name, value in policy.items())
        response.headers["content-security-policy"] = "; ".join(directives)
        response.headers["permissions-policy"] = "camera=(self), microphone=(), geolocation=()"
        response.headers["cache-control"] = "no-cache"  # answered with 304 if unchanged
        return response


def install_page(app: FastAPI) -> None:
    """Add `/` and `/docs`, and under /page/ the files that they name."""
    files = _Files(directory=_FILES)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    async def docs(request: Request) -> Response:
        return await files.get_response("docs.html", request.scope)

    app.add_api_route("/", index, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/docs", docs, methods=["GET", "HEAD"], include_in_schema=False)
    if (swagger := find_spec("fastapi_offline")) and swagger.origin:  # only its files are served
        app.mount("/page/swagger", _Files(directory=Path(swagger.origin).parent / "static"))
    app.mount("/page", files)
