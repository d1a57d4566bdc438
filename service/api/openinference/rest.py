"""The Open Inference Protocol over REST; proto/openinference.proto describes its tensors."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.routing import APIRoute

from service.api.http.access import access_of
from service.api.http.blocks import Blocks
from service.api.http.disconnect import while_connected
from service.api.http.problem import pose_problem
from service.api.http.schemas import problems
from service.api.http.upload import received_body
from service.api.intake import Intake
from service.api.openinference.json_tensors import (
    LENGTH_HEADER,
    InferAnswer,
    InferRequest,
    binary_outputs,
    read_request,
    write_answer,
)
from service.api.openinference.tensors import (
    EXTENSIONS,
    INPUTS,
    MODEL,
    PLATFORM,
    VERSION,
    TensorMetadata,
    arrays,
    check_model,
    check_outputs,
    outputs,
    read_options,
    read_picture,
)
from service.core.estimator import Estimator
from service.errors import PoseError
from service.types import Picture

#: The paths of requests for persons.
INFER_PATHS = (f"/v2/models/{MODEL}/infer", f"/v2/models/{MODEL}/versions/{VERSION}/infer")
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_ModelName = Annotated[str, Path(json_schema_extra={"enum": [MODEL]})]
_Version = Annotated[str, Path(json_schema_extra={"enum": [VERSION]})]


class _Route(APIRoute):
    """A route whose problems also have the protocol's `error`."""

    def get_route_handler(self) -> _Handler:
        """See APIRoute."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except PoseError as error:
                return pose_problem(error, error=str(error))

        return answer


@dataclass(frozen=True, slots=True)
class Server:
    """The service."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Live:
    """Whether the process is running."""

    live: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether the service is ready."""

    ready: bool


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Whether the model is ready."""

    name: str
    ready: bool


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The model's tensors; -1 is a variable dimension. A request has one of the inputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


async def _known_model(model: _ModelName) -> None:
    check_model(model)


async def _known_version(model: _ModelName, version: _Version) -> None:
    check_model(model, version)


@dataclass(frozen=True)
class OpenInferenceApi:
    """The routes under /v2."""

    estimator: Estimator
    decoders: Executor
    intake: Intake

    def install(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        router = APIRouter(route_class=_Route, tags=["open inference protocol"])
        router.add_api_route("/v2", self.server, summary="The service")
        router.add_api_route("/v2/health/live", self.live, summary="Liveness")
        router.add_api_route("/v2/health/ready", self.ready, summary="Readiness", responses=problems(503))
        self._add_model(router, "/v2/models/{model}", "", _known_model)
        self._add_model(router, "/v2/models/{model}/versions/{version}", "_version", _known_version)
        # after the documented routes, whose methods are those of the Allow header
        for path, probe in (("/v2/health/live", self.live), ("/v2/health/ready", self.ready)):
            router.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)
        app.include_router(router)

    def _add_model(
        self, router: APIRouter, path: str, suffix: str, known: Callable[..., Awaitable[None]]
    ) -> None:
        """The routes of the model, with and without its version in the path."""
        common: dict[str, Any] = {"dependencies": [Depends(known)]}
        router.add_api_route(
            path,
            self.model,
            name=f"model{suffix}",
            summary="The model's tensors",
            responses=problems(404, 422),
            **common,
        )
        router.add_api_route(
            f"{path}/ready",
            self.model_ready,
            name=f"model_ready{suffix}",
            summary="Readiness of the model",
            responses=problems(404, 422, 503),
            **common,
        )
        router.add_api_route(
            f"{path}/infer",
            self.infer,
            methods=["POST"],
            name=f"infer{suffix}",
            summary="The persons of an image as tensors",
            response_model=InferAnswer,
            responses={200: _BINARY, **problems(400, 404, 408, 413, 422, 429, 500, 501, 503, 504)},
            openapi_extra=_BODY,
            **common,
        )

    async def server(self) -> Server:
        """Name, version and extensions."""
        return Server(MODEL, version("lgm-pose"), EXTENSIONS)

    async def live(self) -> Live:
        """The process is running."""
        return Live(True)

    async def ready(self) -> Ready:
        """Ready from start-up until shutdown, except while the worker restarts."""
        self.estimator.check_ready()
        return Ready(True)

    async def model(self) -> ModelMetadata:
        """Inputs and outputs. A request has one of the inputs, and one image."""
        return ModelMetadata(MODEL, (VERSION,), PLATFORM, INPUTS, outputs(len(self.estimator.skeleton.names)))

    async def model_ready(self) -> ModelReady:
        """The model is ready when the service is."""
        self.estimator.check_ready()
        return ModelReady(MODEL, True)

    async def infer(self, request: Request) -> Response:
        """Boxes, scores and keypoints of the persons, in pixels of the image, sorted by descending score.

        The input is `image`, BYTES of shape [1] (an encoded image; in JSON as base64), or `pixels`, UINT8 of
        shape [1, height, width, 3] in RGB. Tensors may follow the JSON; then the header
        `Inference-Header-Content-Length` has the length of the JSON.
        """
        async with received_body(request, self.intake) as body:
            # large JSON is parsed off the event loop
            asked, picture = await asyncio.get_running_loop().run_in_executor(
                self.decoders, _read, body, request.headers.get(LENGTH_HEADER)
            )
            options = read_options(asked.parameters)
            names = check_outputs([(each.name, each.parameters) for each in asked.outputs])
            work = self.estimator.estimate([picture], options)
            access = access_of(request.scope)
            (poses,) = access.poses = await while_connected(request, work)
        found = arrays(poses, len(self.estimator.skeleton.names))
        wanted = {name: array for name, array in found.items() if name in names}
        return _answer(*write_answer(asked.id, wanted, binary_outputs(asked)))


def _read(body: Blocks, json_length: str | None) -> tuple[InferRequest, Picture]:
    """A request and its image. Raises several kinds of PoseError."""
    asked, tensors = read_request(body.take(), json_length)
    return asked, read_picture(tensors)


def _answer(body: bytes, json_length: int) -> Response:
    if json_length == len(body):
        return Response(body, media_type="application/json")
    return Response(body, headers={LENGTH_HEADER: str(json_length)}, media_type="application/octet-stream")


def _inlined(schema: dict[str, Any]) -> Any:
    """A JSON schema without references, for places where OpenAPI does not allow them."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            reference = node.get("$ref", "").rpartition("/")[2]
            return resolve(definitions[reference]) if reference else {k: resolve(v) for k, v in node.items()}
        return [resolve(each) for each in node] if isinstance(node, list) else node

    return resolve(schema)


_EXAMPLE = {
    "name": "image",
    "datatype": "BYTES",
    "shape": [1],
    "data": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVQIHWNoaGgAAAMEAYHZ9rm7AAAAAElFTkSuQmCC"],
}
_OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BINARY: dict[str, Any] = {"description": "The persons; binary tensors follow the JSON.", "content": _OCTETS}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON; binary tensors follow it.",
        "content": {
            "application/json": {
                "schema": _inlined(InferRequest.model_json_schema()),
                "example": {"inputs": [_EXAMPLE], "parameters": {"min_score": 0.5}},
            },
            **_OCTETS,
        },
    }
}
