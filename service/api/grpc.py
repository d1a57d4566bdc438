"""The gRPC front end; proto/pose.proto is its reference."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from model.keypoints import EDGES, FLIP_PAIRS, NAMES, OKS_SIGMAS
from service.access import observed_call, request_id
from service.errors import RETRY_AFTER_S, InvalidArgument, Overloaded, PoseError, ReceiptTimeout
from service.estimator import Estimator
from service.frames import StreamConfig, StreamFrame
from service.messages import answer_message, poses_message, read_config, read_frame, read_options
from service.pb import pose_pb2, pose_pb2_grpc
from service.stream import Stream
from service.types import Model, Models

Context: TypeAlias = "ServicerContext[Any, Any]"
_NAME = pose_pb2.DESCRIPTOR.services_by_name["PoseService"].full_name
# a peer whose machine is gone without a word is noticed, and its stream ended
_KEEPALIVE = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 20_000))
_LAST_WORDS_S = 2  # for answers under way to be sent; health watches, which never end, are cut then


@asynccontextmanager
async def serve_grpc(
    estimator: Estimator,
    models: Models,
    address: str,
    *,
    max_bytes: int,
    receipt_timeout_s: float,
    drain_timeout_s: float,
) -> AsyncIterator[int]:
    """Serves at `address` (host:port) while open and gives the port; then finishes the calls under way.

    max_bytes: of a message. receipt_timeout_s: for a stream's config to arrive.
    """
    limit = ("grpc.max_receive_message_length", max_bytes)
    server = grpc.aio.server(options=(limit, ("grpc.so_reuseport", 0), *_KEEPALIVE))
    checks = health.aio.HealthServicer()
    pose_pb2_grpc.add_PoseServiceServicer_to_server(
        PoseServicer(estimator, models, receipt_timeout_s), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(address)
    await checks.set(_NAME, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    watch = asyncio.create_task(_tell_drain(estimator, checks))
    try:
        yield port
        await estimator.drain(drain_timeout_s)
    finally:
        watch.cancel()
        await server.stop(_LAST_WORDS_S)


async def _tell_drain(estimator: Estimator, checks: health.aio.HealthServicer) -> None:
    await estimator.draining.wait()
    await checks.enter_graceful_shutdown()


class PoseServicer(pose_pb2_grpc.PoseServiceServicer):
    """The calls of pose.v1.PoseService."""

    def __init__(self, estimator: Estimator, models: Models, receipt_timeout_s: float) -> None:
        self._estimator, self._receipt_timeout_s = estimator, receipt_timeout_s
        self._models = pose_pb2.Models(pose=_model(models.pose), detector=_model(models.detector))

    async def Estimate(
        self, request: pose_pb2.EstimateRequest, context: Context
    ) -> pose_pb2.EstimateResponse:
        """The persons of one image."""
        ident = _identify(context)
        try:
            options = read_options(request.options)
            with observed_call("grpc", ident) as access:
                access.poses = await self._estimator.estimate(
                    [request.image], options, timeout_s=context.time_remaining()
                )
        except PoseError as error:
            await _abort(context, error)
        return pose_pb2.EstimateResponse(poses=poses_message(access.poses[0]), model=self._models)

    async def EstimateStream(self, _: object, context: Context) -> None:
        """The answer to each frame, in order; ends when the caller is done or the service drains."""
        ident = _identify(context)
        try:
            async with asyncio.timeout(self._receipt_timeout_s):
                config = await _read_config(context)
            stream = Stream(self._estimator, config, api="grpc_stream", ident=ident)
            async with aclosing(stream.answers(_frames(context))) as answers:
                async for answer in answers:
                    await context.write(answer_message(answer))
        except TimeoutError:
            await _abort(context, ReceiptTimeout("the config did not arrive in time"))
        except PoseError as error:
            await _abort(context, error)

    async def GetSkeleton(self, request: pose_pb2.GetSkeletonRequest, context: Context) -> pose_pb2.Skeleton:
        """What the keypoints are."""
        return pose_pb2.Skeleton(
            names=NAMES,
            edges=[pose_pb2.KeypointPair(first=a, second=b) for a, b in EDGES],
            flip_pairs=[pose_pb2.KeypointPair(first=a, second=b) for a, b in FLIP_PAIRS],
            oks_sigmas=OKS_SIGMAS,
        )


async def _read_config(context: Context) -> StreamConfig:
    message = await context.read()
    if message is grpc.aio.EOF or message.WhichOneof("message") != "config":
        raise InvalidArgument("the first message of a stream must be its config")
    return read_config(message.config)


async def _frames(context: Context) -> AsyncIterator[StreamFrame]:
    while (message := await context.read()) is not grpc.aio.EOF:
        if message.WhichOneof("message") != "frame":
            raise InvalidArgument("only the first message of a stream may be its config")
        yield read_frame(message.frame)


def _identify(context: Context) -> str:
    """The call's id, which goes back in the trailing metadata."""
    given = dict(context.invocation_metadata() or ()).get("x-request-id")
    ident = request_id(given if isinstance(given, str) else None)
    context.set_trailing_metadata((("x-request-id", ident),))
    return ident


async def _abort(context: Context, error: PoseError) -> NoReturn:
    if isinstance(error, Overloaded):
        pushback = ("grpc-retry-pushback-ms", str(RETRY_AFTER_S * 1000))
        context.set_trailing_metadata((*context.trailing_metadata(), pushback))
    await context.abort(error.grpc_status, str(error))
    raise AssertionError("abort raises")


def _model(model: Model) -> pose_pb2.Model:
    return pose_pb2.Model(name=model.name, version=model.version, commit=model.commit)
