"""Failures over HTTP: problem details (RFC 9457)."""

from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.errors import (
    ImageTooLarge,
    InferenceFailed,
    MalformedBody,
    PoseError,
    ReceiptTimeout,
    ShuttingDown,
    Unauthenticated,
    UnsupportedMediaType,
)

MEDIA_TYPE = "application/problem+json"
# the rest of the body is not read, or the service shuts down, so the connection is closed
_CLOSING = (ImageTooLarge, MalformedBody, ReceiptTimeout, ShuttingDown, UnsupportedMediaType)


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem details: `code` is a short stable name; `index` is that of the invalid image, if any."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    index: int | None = None


def problem(status: int, code: str, detail: str, *, index: int | None = None, **more: str) -> Response:
    """The answer to a failed request; more: further members."""
    body = asdict(Problem("about:blank", _title(status), status, detail, code, index)) | more
    if index is None:
        del body["index"]
    return Response(orjson.dumps(body), status, media_type=MEDIA_TYPE)


def pose_problem(error: PoseError, /, **more: str) -> Response:
    """The answer to a request that failed with `error`; more: further members."""
    detail = str(error) if error.index is None else f"image {error.index}: {error}"
    response = problem(error.http_status, error.code, detail, index=error.index, **more)
    if error.retry_after_s is not None:
        response.headers["retry-after"] = str(error.retry_after_s)
    if isinstance(error, Unauthenticated):
        response.headers["www-authenticate"] = "Bearer"
    if isinstance(error, _CLOSING):
        response.headers["connection"] = "close"
    return response


def unforeseen_problem() -> Response:
    """The answer to a request that failed because of the service."""
    return pose_problem(InferenceFailed("the service failed; search its log for the request id"))


async def on_pose_error(_: Request, error: Exception) -> Response:
    """Exception handler of PoseError."""
    assert isinstance(error, PoseError)
    return pose_problem(error)


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Exception handler of requests that the framework refuses, such as unknown paths or methods."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    response = problem(error.status_code, code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def on_invalid_parameters(_: Request, error: Exception) -> Response:
    """Exception handler of invalid parameters; the answer names all of them."""
    assert isinstance(error, RequestValidationError)
    return problem(422, "invalid_argument", "; ".join(_complaint(each) for each in error.errors()))


def _complaint(error: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"][1:])
    return f"{name}: {error['msg']}"


def _title(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase
