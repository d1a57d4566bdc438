"""The gRPC front end; proto/pose.proto is its reference."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import NoReturn

import grpc
from grpc import StatusCode
from grpc.aio import ServicerContext
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from model.keypoints import EDGES, FLIP_PAIRS, NAMES, OKS_SIGMAS
from service.api.access import observed, request_id
from service.errors import (
    RETRY_AFTER_S,
    InferenceFailed,
    InvalidArgument,
    Overloaded,
    PoseError,
    ShuttingDown,
)
from service.estimator import Estimator
from service.pb import pose_pb2, pose_pb2_grpc
from service.types import MAX_PERSONS, Model, Models, Options, Person, Poses

logger = logging.getLogger(__name__)
_NAME = pose_pb2.DESCRIPTOR.services_by_name["PoseService"].full_name


@asynccontextmanager
async def serve_grpc(
    estimator: Estimator, models: Models, address: str, *, max_bytes: int, drain_timeout_s: float
) -> AsyncIterator[int]:
    """Serves at `address` (host:port) while open and gives the port; then finishes the calls under way."""
    limit = ("grpc.max_receive_message_length", max_bytes)
    server = grpc.aio.server(options=(limit, ("grpc.so_reuseport", 0)))
    checks = health.aio.HealthServicer()
    pose_pb2_grpc.add_PoseServiceServicer_to_server(PoseServicer(estimator, models), server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(address)
    await checks.set(_NAME, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    watch = asyncio.create_task(_tell_drain(estimator, checks))
    try:
        yield port
    finally:
        watch.cancel()
        await server.stop(drain_timeout_s)


async def _tell_drain(estimator: Estimator, checks: health.aio.HealthServicer) -> None:
    await estimator.draining.wait()
    await checks.enter_graceful_shutdown()


class PoseServicer(pose_pb2_grpc.PoseServiceServicer):
    """The calls of pose.v1.PoseService."""

    def __init__(self, estimator: Estimator, models: Models) -> None:
        self._estimator = estimator
        self._models = pose_pb2.Models(pose=_model(models.pose), detector=_model(models.detector))

    async def Estimate(
        self, request: pose_pb2.EstimateRequest, context: ServicerContext
    ) -> pose_pb2.EstimateResponse:
        """The persons of one image."""
        ident = _identify(context)
        try:
            options = _options(request.options)
            poses = await self._observed(
                "grpc", ident, request.image, options, timeout_s=context.time_remaining()
            )
        except PoseError as error:
            await _abort(context, error)
        return pose_pb2.EstimateResponse(poses=_poses(poses), model=self._models)

    async def EstimateStream(self, _: object, context: ServicerContext) -> None:
        """The persons of each frame, in order; ends when the caller is done or the service drains."""
        ident = _identify(context)
        counts = pose_pb2.Counts()
        try:
            options = await self._read_config(context)
            while (message := await self._read(context)) is not None:
                if message.WhichOneof("message") != "frame":
                    raise InvalidArgument("only the first message of a stream may be its config")
                await context.write(await self._answer(message.frame, options, counts, ident))
        except PoseError as error:
            await _abort(context, error)
        finally:
            logger.info("stream ended", extra={"request_id": ident, **_numbers(counts)})

    async def GetSkeleton(
        self, request: pose_pb2.GetSkeletonRequest, context: ServicerContext
    ) -> pose_pb2.Skeleton:
        """What the keypoints are."""
        return pose_pb2.Skeleton(
            names=NAMES,
            edges=[pose_pb2.KeypointPair(first=a, second=b) for a, b in EDGES],
            flip_pairs=[pose_pb2.KeypointPair(first=a, second=b) for a, b in FLIP_PAIRS],
            oks_sigmas=OKS_SIGMAS,
        )

    async def _read_config(self, context: ServicerContext) -> Options:
        message = await self._read(context)
        if message is None or message.WhichOneof("message") != "config":
            raise InvalidArgument("the first message of a stream must be its config")
        return _options(message.config.options)

    async def _read(self, context: ServicerContext) -> pose_pb2.EstimateStreamRequest | None:
        """The next message, None at the stream's end. Raises ShuttingDown when the service drains."""
        read = asyncio.ensure_future(context.read())
        drain = asyncio.ensure_future(self._estimator.draining.wait())
        try:
            await asyncio.wait((read, drain), return_when=asyncio.FIRST_COMPLETED)
            if drain.done():
                raise ShuttingDown("the service is shutting down")
            message = read.result()
        finally:
            read.cancel()
            drain.cancel()
        return None if message is grpc.aio.EOF else message

    async def _answer(
        self, frame: pose_pb2.Frame, options: Options, counts: pose_pb2.Counts, ident: str
    ) -> pose_pb2.EstimateStreamResponse:
        """The answer to one frame of a stream, counted. Raises ShuttingDown."""
        answer = pose_pb2.EstimateStreamResponse(frame_id=frame.frame_id)
        counts.received += 1
        try:
            poses = await self._observed("grpc_stream", ident, frame.image, options, level=logging.DEBUG)
            answer.poses.CopyFrom(_poses(poses))
            counts.poses += 1
        except ShuttingDown:
            raise
        except PoseError as error:
            answer.error.CopyFrom(pose_pb2.Error(code=error.code, message=str(error)))
            counts.errors += 1
        answer.counts.CopyFrom(counts)
        return answer

    async def _observed(
        self,
        api: str,
        ident: str,
        image: bytes,
        options: Options,
        *,
        timeout_s: float | None = None,
        level: int = logging.INFO,
    ) -> Poses:
        """The poses of an image, on record. Raises PoseError and nothing else."""
        with observed(api, ident, code=StatusCode.CANCELLED.name, level=level) as access:
            try:
                access.poses = await self._estimator.estimate([image], options, timeout_s=timeout_s)
            except PoseError as error:
                access.code = error.grpc_status.name
                raise
            except Exception as error:
                logger.exception("request failed", extra={"request_id": ident})
                access.code = StatusCode.INTERNAL.name
                raise InferenceFailed("the service failed; the request id finds the reason") from error
            access.code = StatusCode.OK.name
            return access.poses[0]


def _identify(context: ServicerContext) -> str:
    """The call's id, which goes back in the trailing metadata."""
    ident = request_id(dict(context.invocation_metadata()).get("x-request-id"))
    context.set_trailing_metadata((("x-request-id", ident),))
    return ident


async def _abort(context: ServicerContext, error: PoseError) -> NoReturn:
    if isinstance(error, Overloaded):
        pushback = ("grpc-retry-pushback-ms", str(RETRY_AFTER_S * 1000))
        context.set_trailing_metadata((*context.trailing_metadata(), pushback))
    await context.abort(error.grpc_status, str(error))
    raise AssertionError("abort raises")


def _options(given: pose_pb2.Options) -> Options:
    """Raises InvalidArgument for values out of range."""
    default = Options()
    min_score = given.min_score if given.HasField("min_score") else default.min_score
    max_persons = given.max_persons if given.HasField("max_persons") else default.max_persons
    if not 0 <= min_score <= 1:
        raise InvalidArgument(f"min_score {min_score:g} is not in [0, 1]")
    if not 1 <= max_persons <= MAX_PERSONS:
        raise InvalidArgument(f"max_persons {max_persons} is not in 1 to {MAX_PERSONS}")
    return Options(min_score, max_persons)


def _poses(poses: Poses) -> pose_pb2.Poses:
    return pose_pb2.Poses(
        persons=[_person(person) for person in poses.persons],
        width=poses.width,
        height=poses.height,
        timings=pose_pb2.Timings(**asdict(poses.timings)),
    )


def _person(person: Person) -> pose_pb2.Person:
    x1, y1, x2, y2 = person.bbox
    return pose_pb2.Person(
        bbox=pose_pb2.BoundingBox(x1=x1, y1=y1, x2=x2, y2=y2),
        score=person.score,
        keypoints=[pose_pb2.Keypoint(x=x, y=y, score=score) for x, y, score in person.keypoints],
    )


def _model(model: Model) -> pose_pb2.Model:
    return pose_pb2.Model(name=model.name, version=model.version, commit=model.commit)


def _numbers(counts: pose_pb2.Counts) -> dict[str, int]:
    return {"received": counts.received, "poses": counts.poses, "errors": counts.errors}
