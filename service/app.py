"""The composition root: everything is opened, wired and closed here."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from service.api.grpc.server import GrpcOptions, serve_grpc
from service.api.http.access import RECORDED, VIDEOS, AccessMiddleware, BodyLimits
from service.api.http.keys import KeyMiddleware, declare_keys
from service.api.http.origin import OriginMiddleware
from service.api.http.page import install_page
from service.api.http.problem import on_http_exception, on_invalid_parameters, on_pose_error
from service.api.http.rest import RestApi
from service.api.http.root_path import RootPathMiddleware
from service.api.http.video import VideoApi
from service.api.http.websocket import WebSocketApi
from service.api.intake import Intake
from service.api.openinference.grpc import add_open_inference
from service.api.openinference.json_tensors import LENGTH_HEADER
from service.api.openinference.rest import INFER_PATHS, OpenInferenceApi
from service.config import Settings, listed
from service.core.batching import Batcher
from service.core.estimator import Estimator
from service.core.stages import Done, Job, Stages
from service.errors import PoseError
from service.inference.child import ChildPipeline
from service.inference.cpu import available_cpus
from service.inference.pipeline import open_pipeline
from service.inference.reloadable import AnyPipeline, ReloadablePipeline
from service.inference.runtime import Files
from service.observability.access_log import record_answered
from service.security.credentials import Security

_CPU_BATCH = 2  # images that a processor takes at once: each then takes less time
_OTHER_CALLS = 256  # parallel gRPC calls in addition to those for persons: health checks, watches, reflection


@dataclass(frozen=True)
class Core:
    """What all protocols share."""

    worker: ReloadablePipeline
    decoders: ThreadPoolExecutor
    batcher: Batcher[Job, Done]
    estimator: Estimator
    intake: Intake

    async def close(self) -> None:
        """Answer what waits, then end the runners, the networks and the decoders."""
        await self.batcher.close()
        self.worker.close()
        self.decoders.shutdown()


def create_app(settings: Settings) -> FastAPI:
    """The REST application; its lifespan also runs the gRPC server. Raises ArtefactError or ConfigError.

    Its state has `estimator`, `worker`, `security` and, after the start, `grpc_port`.
    """
    security = Security(settings)
    core = _open_core(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        options = _grpc_options(settings, security)
        further = [partial(add_open_inference, estimator=core.estimator, intake=core.intake)]
        grpc = serve_grpc(core.estimator, core.worker.models, core.intake, options, further)
        async with grpc as app.state.grpc_port, security.watched():
            yield
        await core.close()
        record_answered()

    app = FastAPI(
        title="LGM-Pose",
        version=version("lgm-pose"),
        description=_DESCRIPTION,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        docs_url=None,  # those of FastAPI load scripts from elsewhere
        redoc_url=None,
    )
    app.state.estimator, app.state.worker, app.state.security = core.estimator, core.worker, security
    _add_routes(app, settings, core)
    _add_middleware(app, settings, security)
    return app


def _open_core(settings: Settings) -> Core:
    """Opens the networks and starts the runners. Raises ArtefactError."""
    cpus = available_cpus()
    threads = settings.threads or cpus
    worker = ReloadablePipeline(lambda: _open_pipeline(settings, threads))
    decoders = ThreadPoolExecutor(cpus, "decoder")
    stages = Stages(
        worker.run,
        decoders if worker.batches else None,
        max_pixels=settings.max_pixels,
        skeleton=worker.skeleton,
    )
    batcher = Batcher(
        stages.run,
        # on a GPU one runner decodes the next batch while the other uses the device
        runners=2 if worker.batches else threads,
        max_batch=settings.max_batch if worker.batches else _CPU_BATCH,
        spread=not worker.batches,
        alive=worker.alive,
        restart=worker.restart,
    )
    estimator = Estimator(
        batcher,
        max_images=settings.max_images,
        max_pixels=settings.max_pixels,
        timeout_s=settings.request_timeout_s,
        max_streams=settings.max_streams,
        skeleton=worker.skeleton,
    )
    intake = Intake(
        estimator.image_arrival,
        max_bytes=settings.max_body_bytes,
        total_bytes=settings.body_memory_bytes,
        timeout_s=settings.receipt_timeout_s,
    )
    return Core(worker, decoders, batcher, estimator, intake)


def _add_routes(app: FastAPI, settings: Settings, core: Core) -> None:
    """Adds the page and the routes of all HTTP protocols, with their answers to errors."""
    app.add_exception_handler(PoseError, on_pose_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(RequestValidationError, on_invalid_parameters)
    install_page(app)
    RestApi(core.estimator, core.worker.models, core.decoders, core.intake).install(app)
    OpenInferenceApi(core.estimator, core.decoders, core.intake).install(app)
    WebSocketApi(core.estimator, settings.receipt_timeout_s).install(app)
    VideoApi(
        estimator=core.estimator,
        decoders=core.decoders,
        intake=_video_intake(core.estimator, settings),
        max_seconds=settings.max_video_s,
    ).install(app)


def _video_intake(estimator: Estimator, settings: Settings) -> Intake:
    """Videos are stored on disk while they arrive: as many of the largest size as streams may be open."""
    return Intake(
        estimator.video_arrival,
        max_bytes=settings.max_video_bytes,
        total_bytes=settings.max_video_bytes * settings.max_streams,
        # the rate that the largest request needs
        timeout_s=settings.receipt_timeout_s * settings.max_video_bytes / settings.max_body_bytes,
    )


def _add_middleware(app: FastAPI, settings: Settings, security: Security) -> None:
    """Adds what each request passes before its route. The last one added is the first one passed."""
    origins = listed(settings.allowed_origins)
    if security.keys is None:
        app.add_middleware(OriginMiddleware, allowed=origins)
    else:
        app.add_middleware(KeyMiddleware, keys=security.keys)
        declare_keys(app)
    limits = BodyLimits(
        settings.max_body_bytes, settings.receipt_timeout_s, {VIDEOS: settings.max_video_bytes}
    )
    recorded = RECORDED | dict.fromkeys(INFER_PATHS, "rest_v2")
    app.add_middleware(AccessMiddleware, limits=limits, recorded=recorded)
    if origins:  # outside the keys: a preflight request has no key, and pages must be able to read refusals
        app.add_middleware(CORSMiddleware, allow_origins=origins, **_CORS)
    if settings.root_path:
        app.add_middleware(RootPathMiddleware, root_path=settings.root_path)


def _grpc_options(settings: Settings, security: Security) -> GrpcOptions:
    return GrpcOptions(
        address=f"{_bracketed(settings.host)}:{settings.grpc_port}",
        max_bytes=settings.max_body_bytes,
        max_calls=settings.max_images + settings.max_streams + _OTHER_CALLS,
        receipt_timeout_s=settings.receipt_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        keys=security.keys,
        tls=security.tls,
    )


_CORS: dict[str, Any] = {
    "allow_methods": ("GET", "POST"),
    "allow_headers": (
        "Authorization",
        "Content-Type",
        LENGTH_HEADER,
        "Traceparent",
        "X-API-Key",
        "X-Request-ID",
    ),
    "expose_headers": (LENGTH_HEADER, "Retry-After", "X-Request-ID"),
    "allow_private_network": True,  # browsers ask before a public page calls a private address
}
_DESCRIPTION = """Every person of an image with the keypoints of `/v1/skeleton`.

Coordinates are pixels of the image after its EXIF orientation, x to the right, y down. Scores lie in
[0, 1]. Failures are problem details (RFC 9457) with a stable `code`. Each answer carries `X-Request-ID`:
the client's id if it sent a valid one, else a new one."""


def _open_pipeline(settings: Settings, threads: int) -> AnyPipeline:
    files = Files.of(settings.weights, settings.detector, settings.pose)
    if settings.worker == "process":
        return ChildPipeline(
            files,
            threads=threads,
            runtime=settings.runtime,
            timeout_s=settings.worker_timeout_s,
        )
    return open_pipeline(files, threads=threads, runtime=settings.runtime)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
