"""The REST front end."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated

import orjson
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.disconnect import while_connected
from service.api.http.problem import (
    on_http_exception,
    on_invalid_parameters,
    on_pose_error,
    unforeseen_problem,
)
from service.api.http.schemas import (
    BODY,
    METRICS,
    PICTURE,
    SKELETON,
    PosesAnswer,
    PosesQuery,
    Skeleton,
    Status,
    problems,
)
from service.api.http.upload import read_images
from service.core.coco import CocoResult, coco_results
from service.core.drawing import draw
from service.core.estimator import Estimator
from service.errors import InvalidArgument, PoseError
from service.observability.access_log import Access, observed, request_id
from service.observability.tracing import TRACEPARENT, join_trace
from service.types import Models, Poses

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestApi:
    """The routes. max_body_bytes and receipt_timeout_s hold for the body of a request."""

    estimator: Estimator
    models: Callable[[], Models]
    decoders: Executor
    max_body_bytes: int
    receipt_timeout_s: float

    def install(self, app: FastAPI) -> None:
        """Add the routes, the problem details and the record of requests to an application."""
        app.include_router(self._router())
        app.add_exception_handler(PoseError, on_pose_error)
        app.add_exception_handler(HTTPException, on_http_exception)
        app.add_exception_handler(RequestValidationError, on_invalid_parameters)
        app.add_middleware(AccessMiddleware)

    def _router(self) -> APIRouter:
        router = APIRouter()
        router.add_api_route(
            "/v1/poses",
            self.poses,
            methods=["POST"],
            summary="The persons of one or more images",
            response_model=PosesAnswer | list[CocoResult],
            responses={200: PICTURE, **problems(400, 408, 413, 415, 422, 429, 500, 503, 504)},
            openapi_extra=BODY,
        )
        router.add_api_route("/v1/models", self.models_now, summary="The networks that answer")
        router.add_api_route("/v1/skeleton", self.skeleton, summary="What the keypoints are")
        router.add_api_route("/healthz", self.healthz, summary="Whether the process lives")
        router.add_api_route("/readyz", self.readyz, summary="Whether it takes work", responses=problems(503))
        router.add_api_route(
            "/metrics",
            self.metrics,
            summary="Prometheus metrics",
            response_class=Response,
            responses={200: METRICS},
        )
        return router

    async def poses(self, request: Request, query: Annotated[PosesQuery, Query()]) -> Response:
        """Every person of each image with 17 keypoints, in pixels of the image once it is turned upright.

        It is turned as its EXIF orientation says, then by `rotate`. A keypoint that the picture does not show
        may lie outside it; its score is low.

        All images are answered or none: one that is bad fails the request and is named in the problem.
        """
        images = await read_images(request, max_bytes=self.max_body_bytes, timeout_s=self.receipt_timeout_s)
        picture = "image/jpeg" in request.headers.get("accept", "")
        if picture and len(images) > 1:
            raise InvalidArgument("a picture can be drawn of one image only")
        results = await while_connected(request, self.estimator.estimate(images, query.options()))
        access: Access = request.scope["state"]["access"]
        access.poses = results
        if picture:
            return await self._drawn(images[0], results[0], query.rotate)
        return self._json(query, results)

    async def _drawn(self, image: bytes, poses: Poses, rotate: int) -> Response:
        loop = asyncio.get_running_loop()
        drawn = await loop.run_in_executor(self.decoders, draw, image, poses.persons, rotate)
        return Response(drawn, media_type="image/jpeg")

    def _json(self, query: PosesQuery, results: Sequence[Poses]) -> Response:
        if query.format == "coco":
            return _json(coco_results(results))
        return _json(PosesAnswer(list(results), self.models()))

    async def models_now(self) -> Models:
        """Name, version and commit of the networks; another version after a reload."""
        return self.models()

    async def skeleton(self) -> Skeleton:
        """Names, limbs, left-right pairs and OKS sigmas of the keypoints."""
        return SKELETON

    async def healthz(self) -> Status:
        """The process answers."""
        return Status("ok")

    async def readyz(self) -> Status:
        """The service takes work: from start-up until it is told to stop, but while the worker is lost."""
        self.estimator.check_ready()
        return Status("ready")

    async def metrics(self, request: Request) -> Response:
        """All metrics, in the text format that the Accept header asks for."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encoder(REGISTRY), headers={"content-type": content_type})


class AccessMiddleware:
    """Gives each request an id, turns a crash into a problem, and records requests for persons."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        join_trace(headers.get(TRACEPARENT))
        ident = request_id(headers.get("x-request-id"))
        api = _api(scope["path"])
        if api is None:
            return await self._answer(scope, receive, send, Access(ident, "500"))
        with observed(api, ident, code="500") as access:
            await self._answer(scope, receive, send, access)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, access: Access) -> None:
        started = False
        scope.setdefault("state", {})["access"] = access

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                access.code = str(message["status"])
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = access.request_id
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception:
            logger.exception("request failed", extra={"request_id": access.request_id})
            if started:
                raise
            await unforeseen_problem()(scope, receive, send_on)


def _api(path: str) -> str | None:
    """How requests to a path are counted; None: not at all."""
    if path.startswith("/v1/"):
        # a video takes as long as it is: it has no place among the latencies of requests
        return "rest_video" if path == "/v1/videos" else "rest"
    return "rest_v2" if path.startswith("/v2/") and path.endswith("/infer") else None


def _json(answer: object) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")
