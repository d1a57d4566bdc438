"""The composition root: everything is opened, wired and closed here."""

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.api.authentication import KeyMiddleware, declare_keys
from service.api.grpc.server import serve_grpc
from service.api.http.origin import OriginMiddleware
from service.api.http.page import install_page
from service.api.http.rest import RestApi
from service.api.http.video import VideoApi
from service.api.http.websocket import WebSocketApi
from service.api.openinference.rest import OpenInferenceApi
from service.config import Settings
from service.core.batching import Batcher
from service.core.estimator import Estimator
from service.inference.child import ProcessPipeline
from service.inference.cpu import available_cpus
from service.inference.pipeline import open_pipeline
from service.inference.reloadable import AnyPipeline, Worker
from service.security.credentials import Security
from service.types import Models


def create_app(settings: Settings) -> FastAPI:
    """The REST application, whose lifespan serves gRPC too. Raises ArtefactError or ConfigError.

    Its state holds `estimator`, `worker`, `security` and, once started, `grpc_port`.
    """
    security = Security(settings)
    cpus = available_cpus()
    threads = settings.threads or cpus
    worker = Worker(lambda: _open_pipeline(settings, threads))
    batcher = Batcher(
        worker.run,
        max_batch=settings.max_batch,
        side_by_side=threads,
        alive=worker.alive,
        restart=worker.restart,
    )
    decoders = ThreadPoolExecutor(cpus, "decoder")
    estimator = Estimator(
        batcher,
        decoders,
        max_images=settings.max_images,
        max_pixels=settings.max_pixels,
        timeout_s=settings.request_timeout_s,
        max_streams=settings.max_streams,
        stream_window=settings.stream_window,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            serve_grpc(
                estimator,
                worker.models,
                f"{_bracketed(settings.host)}:{settings.grpc_port}",
                max_bytes=settings.max_body_bytes,
                receipt_timeout_s=settings.receipt_timeout_s,
                drain_timeout_s=settings.drain_timeout_s,
                keys=security.keys,
                tls=security.tls,
            ) as app.state.grpc_port,
            security.watched(),
        ):
            yield
        await batcher.close()
        worker.close()
        decoders.shutdown()

    app = FastAPI(
        title="LGM-Pose",
        version=version("lgm-pose"),
        description=_DESCRIPTION,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    app.state.estimator, app.state.worker, app.state.security = estimator, worker, security
    if security.keys is None:
        app.add_middleware(OriginMiddleware)
    else:
        app.add_middleware(KeyMiddleware, keys=security.keys)
        declare_keys(app)
    _install(app, estimator, worker.models, decoders, settings)
    return app


def _install(
    app: FastAPI, estimator: Estimator, models: Callable[[], Models], decoders: Executor, settings: Settings
) -> None:
    """Add every route to the application."""
    install_page(app)
    RestApi(
        estimator=estimator,
        models=models,
        decoders=decoders,
        max_body_bytes=settings.max_body_bytes,
        receipt_timeout_s=settings.receipt_timeout_s,
    ).install(app)
    OpenInferenceApi(
        estimator, decoders, settings.max_body_bytes, receipt_timeout_s=settings.receipt_timeout_s
    ).install(app)
    WebSocketApi(estimator, settings.receipt_timeout_s).install(app)
    VideoApi(
        estimator=estimator,
        decoders=decoders,
        max_bytes=settings.max_video_bytes,
        max_seconds=settings.max_video_s,
        # at the pace that the largest request needs
        receipt_timeout_s=settings.receipt_timeout_s * settings.max_video_bytes / settings.max_body_bytes,
    ).install(app)


_DESCRIPTION = """Every person of an image with 17 keypoints.

Coordinates are pixels of the image after its EXIF orientation, x to the right, y down. Scores lie in
[0, 1]. Failures are problem details (RFC 9457) with a stable `code`. Each answer carries `X-Request-ID`:
the caller's, where it sent a sound one."""


def _open_pipeline(settings: Settings, threads: int) -> AnyPipeline:
    if settings.worker == "process":
        return ProcessPipeline(
            settings.weights,
            threads=threads,
            runtime=settings.runtime,
            timeout_s=settings.request_timeout_s,
        )
    return open_pipeline(settings.weights, threads=threads, runtime=settings.runtime)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
