"""The gRPC server; its reference is proto/pose.proto."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.api.grpc.context import Context, abort, identify
from service.api.grpc.keys import KeyInterceptor
from service.api.grpc.receive import HeadFirst, parse, read_message, received
from service.api.intake import Intake
from service.core.estimator import Estimator
from service.errors import InvalidArgument, PoseError, ReceiptTimeout
from service.observability.access_log import observed_opening
from service.security.keys import Keys
from service.security.tls import Tls
from service.streaming.frames import StreamConfig, StreamFrame
from service.streaming.stream import Stream
from service.streaming.timestamps import TimestampCheck
from service.types import Model, Models, Options
from service.wire.messages import answer_message, poses_message, read_config, read_frame, read_options
from service.wire.pb import pose_pb2, pose_pb2_grpc

_NAME = pose_pb2.DESCRIPTOR.services_by_name["PoseService"].full_name
#: Adds the calls of a further service to a server, and returns the service's full name.
AddService = Callable[[grpc.aio.Server], str]
_KEEPALIVE = (
    # detects clients whose machine has disappeared, and ends their streams
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # clients may ping every 10 s, with and without calls; pings may be late and then early, so half of it
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_CONNECTIONS = (("grpc.server_handshake_timeout_ms", 10_000), ("grpc.max_allowed_incoming_connections", 512))
# bytes of a call that are received before the service reads them; a probe would let them grow without bound
_READ_AHEAD = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 2**20))
LAST_WORDS_S = 2  # time to send the last answers; then health watches, which never end, are cut


@dataclass(frozen=True)
class GrpcOptions:
    """Options of the gRPC server.

    address: host:port. max_bytes: limit of a message. max_calls: limit of parallel calls of all clients.
    receipt_timeout_s: limit for a stream's config to arrive. drain_timeout_s: limit for accepted work at
    the end.
    """

    address: str
    max_bytes: int
    max_calls: int
    receipt_timeout_s: float
    drain_timeout_s: float
    keys: Keys | None
    tls: Tls | None


@asynccontextmanager
async def serve_grpc(
    estimator: Estimator,
    models: Callable[[], Models],
    intake: Intake,
    options: GrpcOptions,
    further: Sequence[AddService] = (),
) -> AsyncIterator[int]:
    """Serves PoseService and `further` services while open, yields the port, then finishes running calls."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", options.max_bytes),
            ("grpc.max_concurrent_streams", options.max_calls),
            ("grpc.so_reuseport", 0),
            *_CONNECTIONS,
            *_KEEPALIVE,
            *_READ_AHEAD,
        ),
        interceptors=[HeadFirst(), *([KeyInterceptor(options.keys)] if options.keys else ())],
        maximum_concurrent_rpcs=options.max_calls,
    )
    checks = health.aio.HealthServicer()
    pose_pb2_grpc.add_PoseServiceServicer_to_server(
        PoseServicer(estimator, models, intake, options.receipt_timeout_s), server
    )
    services = (_NAME, *(add(server) for add in further))
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    if options.tls is None:
        port = server.add_insecure_port(options.address)
    else:
        port = server.add_secure_port(options.address, options.tls.credentials())
    checked = (health.OVERALL_HEALTH, *services)
    for name in checked:
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    reports = _report_drain(estimator, checks), _report_readiness(estimator, checks, checked)
    watches = [asyncio.create_task(report) for report in reports]
    try:
        yield port
        await estimator.drain(options.drain_timeout_s)
    finally:
        for watch in watches:
            watch.cancel()
        await server.stop(LAST_WORDS_S)


async def _report_drain(estimator: Estimator, checks: health.aio.HealthServicer) -> None:
    await estimator.draining.wait()
    await checks.enter_graceful_shutdown()


async def _report_readiness(
    estimator: Estimator, checks: health.aio.HealthServicer, names: Sequence[str]
) -> None:
    async for ready in estimator.readiness():
        answer = health_pb2.HealthCheckResponse
        for name in names:
            await checks.set(name, answer.SERVING if ready else answer.NOT_SERVING)


class PoseServicer(pose_pb2_grpc.PoseServiceServicer):
    """The calls of pose.v1.PoseService."""

    def __init__(
        self, estimator: Estimator, models: Callable[[], Models], intake: Intake, receipt_timeout_s: float
    ) -> None:
        self._estimator, self._models = estimator, models
        self._intake, self._receipt_timeout_s = intake, receipt_timeout_s

    async def Estimate(self, _: object, context: Context) -> pose_pb2.EstimateResponse:
        """The persons of one image; see HeadFirst."""
        async with received(context, "grpc", self._intake, _read_request) as ((image, options), access):
            access.poses = await self._estimator.estimate(
                [image], options, timeout_s=context.time_remaining()
            )
        return pose_pb2.EstimateResponse(poses=poses_message(access.poses[0]), model=_models(self._models()))

    async def EstimateStream(self, _: object, context: Context) -> None:
        """The answer to each frame, in order; ends when the client is done or the service drains."""
        ident = identify(context)
        try:
            with observed_opening("grpc_stream", ident) as opening:
                config = await self._read_config(context)
                stream = Stream(self._estimator, config, api="grpc_stream", ident=ident)
                async with aclosing(stream.answers(_frames(context, config))) as answers:
                    async for answer in answers:
                        opening.done = True
                        await context.write(answer_message(answer))
        except PoseError as error:
            await abort(context, error)

    async def GetSkeleton(self, request: pose_pb2.GetSkeletonRequest, context: Context) -> pose_pb2.Skeleton:
        """Description of the keypoints."""
        skeleton = self._estimator.skeleton
        return pose_pb2.Skeleton(
            names=skeleton.names,
            edges=[pose_pb2.KeypointPair(first=a, second=b) for a, b in skeleton.edges],
            flip_pairs=[pose_pb2.KeypointPair(first=a, second=b) for a, b in skeleton.flip_pairs],
            oks_sigmas=skeleton.oks_sigmas,
        )

    async def _read_config(self, context: Context) -> StreamConfig:
        """Raises InvalidArgument or ReceiptTimeout."""
        try:
            async with asyncio.timeout(self._receipt_timeout_s):
                data = await context.read()
        except TimeoutError:
            raise ReceiptTimeout("the config did not arrive in time") from None
        if data is not grpc.aio.EOF:
            message = await read_message(partial(parse, pose_pb2.EstimateStreamRequest), data)
            if message.WhichOneof("message") == "config":
                return read_config(message.config)
        raise InvalidArgument("the first message of a stream must be its config")


def _read_request(data: bytes) -> tuple[bytes, Options]:
    """The image and the options of a request. Raises InvalidArgument."""
    request = parse(pose_pb2.EstimateRequest, data)
    return request.image, read_options(request.options)


def _read_frame(data: bytes) -> StreamFrame:
    """The frame of a message of a stream. Raises InvalidArgument."""
    message = parse(pose_pb2.EstimateStreamRequest, data)
    if message.WhichOneof("message") != "frame":
        raise InvalidArgument("only the first message of a stream may be its config")
    return read_frame(message.frame)


async def _frames(context: Context, config: StreamConfig) -> AsyncIterator[StreamFrame]:
    timestamps = TimestampCheck() if config.tracking else None
    while (data := await context.read()) is not grpc.aio.EOF:
        frame = await read_message(_read_frame, data)
        if timestamps is not None:
            timestamps.check(frame.timestamp)
        yield frame


def _models(models: Models) -> pose_pb2.Models:
    return pose_pb2.Models(pose=_model(models.pose), detector=_model(models.detector))


def _model(model: Model) -> pose_pb2.Model:
    return pose_pb2.Model(name=model.name, version=model.version, commit=model.commit)
