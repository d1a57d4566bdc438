"""Calls for persons: they get memory first, then their message is received."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service.api.grpc.context import Context, abort, identify
from service.api.intake import Intake
from service.errors import InvalidArgument, PoseError
from service.observability.access_log import Access, observed_call
from service.wire.fields import check_fields
from service.wire.pb import openinference_pb2, pose_pb2

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_CALLS = frozenset(
    (
        "/pose.v1.PoseService/Estimate",
        "/pose.v1.PoseService/EstimateStream",
        "/inference.GRPCInferenceService/ModelInfer",
    )
)
_LARGE = 2**18  # bytes; waking a thread takes longer than to parse less
# the fields of each message that hold an image; see check_fields
_PAYLOADS: dict[type[Message], tuple[tuple[int, ...], ...]] = {
    pose_pb2.EstimateRequest: ((1,),),
    pose_pb2.EstimateStreamRequest: ((2,), (2, 3)),
    openinference_pb2.ModelInferRequest: ((7,),),
}


class HeadFirst(grpc.aio.ServerInterceptor):
    """Starts these calls after their heads; by default the server receives and parses a message first.

    Their methods read bytes, with `received` or `parse`. Clients see no difference.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method not in _CALLS:
            return handler
        write = handler.response_serializer
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(handler.stream_stream, response_serializer=write)
        assert handler.unary_unary is not None
        return grpc.stream_unary_rpc_method_handler(handler.unary_unary, response_serializer=write)


async def read_message(read: Callable[[bytes], T], data: bytes) -> T:
    """The result of `read`, which runs on another thread if the message is large.

    grpcio itself has copied the message on the event loop, which takes 1 ms for each MB.
    """
    return await asyncio.to_thread(read, data) if len(data) > _LARGE else read(data)


@asynccontextmanager
async def received(
    context: Context, api: str, intake: Intake, read: Callable[[bytes], T]
) -> AsyncIterator[tuple[T, Access]]:
    """The result of `read` for the message of a call, and its log record, while it is answered.

    read: see `read_message`. A PoseError ends the call with its status.
    """
    ident = identify(context)
    try:
        with observed_call(api, ident) as access:
            async with intake.admitted(context.peer().rpartition(":")[0]) as held:
                async with held.arriving():  # the arrived part of a message is unknown
                    data = await context.read()
                if data is grpc.aio.EOF:
                    raise InvalidArgument("the call has no message")
                access.receipt_ended()
                held.shrink(len(data))
                yield await read_message(read, data), access
    except PoseError as error:
        await abort(context, error)


def parse(kind: type[M], data: bytes) -> M:
    """The message. Raises InvalidArgument."""
    check_fields(data, *_PAYLOADS[kind])
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise InvalidArgument(f"not a valid {kind.DESCRIPTOR.name}") from None
    return message
