"""The service as a Ray Serve application: each replica is a whole service, behind Ray's proxies.

serve run deploy/ray/serve.yaml, or in Python: serve.run(build({"weights": ..., "num_cpus": 2}))
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from fastapi import FastAPI
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext

from service.app import create_app
from service.config import Settings
from service.wire.pb import openinference_pb2, pose_pb2

GRPC_SERVICES = (
    pose_pb2.DESCRIPTOR.services_by_name["PoseService"],
    openinference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)
# what Ray's proxies must know of them: gRPCOptions.grpc_servicer_functions
GRPC_SERVICER_FUNCTIONS = [
    "service.wire.pb.pose_pb2_grpc.add_PoseServiceServicer_to_server",
    "service.wire.pb.openinference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
_LOOPBACK = "127.0.0.1"
_OF_THE_HOP = ("user-agent", "grpc-")  # metadata that gRPC writes itself


class Arguments(BaseModel):
    """Of an application.

    num_cpus: of a replica, and the threads of its networks. settings: of the service, by their names.
    """

    model_config = ConfigDict(extra="forbid")

    num_cpus: float = 2
    num_gpus: float = 0
    min_replicas: int = 1
    max_replicas: int = 10
    max_replicas_per_node: int | None = None
    settings: dict[str, Any] = {}


class Replica:
    """A service, REST by Ray's ingress and gRPC on a port of its own that Ray's calls are passed to.

    So each call meets the server that it meets without Ray: keys, limits, statuses and metadata are the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """See ray.serve.ingress."""
        self._state = (app := create_app(self._settings)).state
        return app

    @property
    def channel(self) -> grpc.aio.Channel:
        """To the replica's own gRPC server, which runs once the application does."""
        if not hasattr(self, "_channel"):
            limits = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
            self._channel = grpc.aio.insecure_channel(f"{_LOOPBACK}:{self._state.grpc_port}", limits)
        return self._channel


def build(arguments: Arguments) -> serve.Application:
    """The application."""
    settings = Settings(
        **{"threads": max(1, int(arguments.num_cpus)), **arguments.settings}, host=_LOOPBACK, grpc_port=0
    )
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="pose",
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        max_replicas_per_node=arguments.max_replicas_per_node,
        # the service refuses what is too much, in words of its own; Ray must not queue in front of it
        max_ongoing_requests=2 * (settings.max_images + settings.max_streams),
        max_queued_requests=settings.max_images,
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            # half of a batch under way and half waiting: more means that the worker does not keep up
            "target_ongoing_requests": settings.max_batch,
        },
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
    )
    application: serve.Application = deployment.bind(settings)
    return application


def _passed_on(service: ServiceDescriptor, method: MethodDescriptor) -> Callable[..., Any]:
    """A method of the replica that passes calls on to its gRPC server.

    A call that is cancelled, or whose deadline passes, is cancelled there.
    """
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    ways = ["stream" if way else "unary" for way in (method.client_streaming, method.server_streaming)]

    def start(replica: Replica, request: Any, context: RayServegRPCContext) -> Any:
        call = getattr(replica.channel, "_".join(ways))(
            f"/{service.full_name}/{method.name}", request_type.SerializeToString, response_type.FromString
        )
        metadata = [pair for pair in context.invocation_metadata() if not pair[0].startswith(_OF_THE_HOP)]
        return call(request, metadata=metadata)

    async def unary(self: Replica, request: Any, grpc_context: RayServegRPCContext) -> Any:
        call = start(self, request, grpc_context)
        try:
            response = await call
            trailing = await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            # raised, it would be logged as a fault of the replica, and its metadata lost
            response, trailing = response_type(), error.trailing_metadata()
            _set_status(grpc_context, error)
        grpc_context.set_trailing_metadata(list(trailing))
        return response

    async def stream(self: Replica, request: Any, grpc_context: RayServegRPCContext) -> AsyncIterator[Any]:
        call = start(self, request, grpc_context)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            _set_status(grpc_context, error)
            raise
        finally:
            call.cancel()

    return stream if method.server_streaming else unary


def _set_status(context: RayServegRPCContext, error: grpc.aio.AioRpcError) -> None:
    context.set_code(error.code())
    context.set_details(error.details())


for _service in GRPC_SERVICES:
    for _method in _service.methods:
        setattr(Replica, _method.name, _passed_on(_service, _method))
