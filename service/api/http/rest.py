"""The REST front end."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from service.api.http.access import access_of
from service.api.http.disconnect import while_connected
from service.api.http.query import RequestRoute, parameters, read_query
from service.api.http.schemas import (
    BODY,
    METRICS,
    PICTURE,
    PosesAnswer,
    PosesQuery,
    Skeleton,
    Status,
    problems,
)
from service.api.http.upload import received_images
from service.api.intake import Intake
from service.core.coco import CocoResult, coco_results
from service.core.estimator import Estimator
from service.errors import InvalidArgument
from service.observability.access_log import record_answered
from service.types import Models, Poses

_MAX_ACCEPT = 1024  # characters


@dataclass(frozen=True)
class RestApi:
    """The routes."""

    estimator: Estimator
    models: Callable[[], Models]
    decoders: Executor
    intake: Intake

    def install(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.router.add_api_route(
            "/v1/poses",
            self.poses,
            route_class_override=RequestRoute,
            methods=["POST"],
            summary="The persons of one or more images",
            response_model=PosesAnswer | list[CocoResult],
            responses={200: PICTURE, **problems(400, 408, 413, 415, 422, 429, 500, 501, 503, 504)},
            openapi_extra=BODY | {"parameters": parameters(PosesQuery)},
        )
        app.add_api_route("/v1/models", self.models_now, summary="The loaded networks")
        app.add_api_route("/v1/skeleton", self.skeleton, summary="Description of the keypoints")
        app.add_api_route("/healthz", self.healthz, summary="Liveness")
        app.add_api_route("/readyz", self.readyz, summary="Readiness", responses=problems(503))
        app.add_api_route(
            "/metrics",
            self.metrics,
            summary="Prometheus metrics",
            response_class=Response,
            responses={200: METRICS},
        )
        # after the documented routes, whose methods are those of the Allow header
        for path, probe in (("/healthz", self.healthz), ("/readyz", self.readyz), ("/metrics", self.metrics)):
            app.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False, response_model=None)

    async def poses(self, request: Request) -> Response:
        """Every person of each image with its keypoints, in pixels of the upright image.

        The image is turned by its EXIF orientation, then by `rotate`. A keypoint that is not visible may be
        outside the image; its score is low.

        One invalid image fails the whole request; the problem has its index.
        """
        query = read_query(request, PosesQuery)
        async with received_images(request, self.intake, self.decoders) as images:
            picture = "image/jpeg" in request.headers.get("accept", "")
            if picture and len(images) > 1:
                raise InvalidArgument("only one image can be drawn")
            access = access_of(request.scope)
            if picture:
                drawn = self.estimator.draw(images[0], query.options())
                poses, drawing = await while_connected(request, drawn)
                access.poses = [poses]
                return Response(drawing, media_type="image/jpeg")
            work = self.estimator.estimate(images, query.options())
            access.poses = await while_connected(request, work)
        return self._json(query, access.poses)

    def _json(self, query: PosesQuery, results: Sequence[Poses]) -> Response:
        if query.format == "coco":
            return _json(coco_results(results))
        return _json(PosesAnswer(list(results), self.models()))

    async def models_now(self) -> Models:
        """Name, version and commit of the networks; they change after a reload."""
        return self.models()

    async def skeleton(self) -> Skeleton:
        """Names, limbs, left-right pairs and OKS sigmas of the keypoints."""
        return Skeleton(**asdict(self.estimator.skeleton))

    async def healthz(self) -> Status:
        """The process is running."""
        return Status("ok")

    async def readyz(self) -> Status:
        """Ready from start-up until shutdown, except while the worker restarts."""
        self.estimator.check_ready()
        return Status("ready")

    async def metrics(self, request: Request) -> Response:
        """All metrics, in the text format of the Accept header."""
        record_answered()
        # limit the length: thousands of types take 10 ms
        encoder, content_type = choose_encoder(request.headers.get("accept", "")[:_MAX_ACCEPT])
        return Response(encoder(REGISTRY), headers={"content-type": content_type})


def _json(answer: object) -> Response:
    return Response(orjson.dumps(answer), media_type="application/json")
