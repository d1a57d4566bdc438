"""The service as a Ray Serve application: each replica is a complete service behind Ray's proxies.

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
# the same services for Ray's proxies: gRPCOptions.grpc_servicer_functions
GRPC_SERVICER_FUNCTIONS = [
    "service.wire.pb.pose_pb2_grpc.add_PoseServiceServicer_to_server",
    "service.wire.pb.openinference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
_LOOPBACK = "127.0.0.1"
_OF_THE_HOP = ("user-agent", "grpc-")  # metadata that gRPC sets itself


class Arguments(BaseModel):
    """The arguments of the application.

    num_cpus: processors of a replica, and the threads of its networks. settings: those of the service, by
    name.
    """

    model_config = ConfigDict(extra="forbid")

    num_cpus: float = 2
    num_gpus: float = 0
    min_replicas: int = 1
    max_replicas: int = 10
    max_replicas_per_node: int | None = None
    settings: dict[str, Any] = {}


class Replica:
    """A complete service: REST through Ray's ingress, gRPC on its own port, to which Ray's calls are
    forwarded.

    Each call reaches the same server as without Ray, so keys, limits, statuses and metadata are the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """See ray.serve.ingress."""
        self._state = (app := create_app(self._settings)).state
        return app

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to the replica's own gRPC server, which runs once the application has started."""
        if not hasattr(self, "_channel"):
            limits = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
            self._channel = grpc.aio.insecure_channel(f"{_LOOPBACK}:{self._state.grpc_port}", limits)
        return self._channel


def build(arguments: Arguments) -> serve.Application:
    """The application for `serve.run`."""
    settings = Settings(
        **{"threads": max(1, int(arguments.num_cpus)), **arguments.settings}, host=_LOOPBACK, grpc_port=0
    )
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="pose",
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        max_replicas_per_node=arguments.max_replicas_per_node,
        # the service refuses overload with its own errors, so Ray must not queue in front of it
        max_ongoing_requests=2 * (settings.max_images + settings.max_streams),
        max_queued_requests=settings.max_images,
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            "target_ongoing_requests": _target_requests(settings, arguments),
        },
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
    )
    application: serve.Application = deployment.bind(settings)
    return application


def _target_requests(settings: Settings, arguments: Arguments) -> int:
    """Requests of a replica that keeps up: on a CPU one that runs and one that waits for each runner; on a
    GPU half a batch that runs and half a batch that waits."""
    return settings.max_batch if arguments.num_gpus else 2 * max(1, int(arguments.num_cpus))


def _passed_on(service: ServiceDescriptor, method: MethodDescriptor) -> Callable[..., Any]:
    """A method of the replica that forwards calls to its gRPC server.

    When a call is cancelled or its deadline passes, the forwarded call is cancelled.
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
            # do not raise: Ray would log a fault of the replica and lose the metadata
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
