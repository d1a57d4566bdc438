"""Unary calls for persons: they get a place and memory first, then their message is received."""

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

M = TypeVar("M", bound=Message)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_CALLS = frozenset(("/pose.v1.PoseService/Estimate", "/inference.GRPCInferenceService/ModelInfer"))


class HeadFirst(grpc.aio.ServerInterceptor):
    """Starts these calls after their heads; by default the server receives the message first.

    Their methods read the message, as bytes, with `received`. Clients see no difference.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or handler_call_details.method not in _CALLS:
            return handler
        return grpc.stream_unary_rpc_method_handler(
            handler.unary_unary, response_serializer=handler.response_serializer
        )


@asynccontextmanager
async def received(
    context: Context, api: str, intake: Intake, kind: type[M]
) -> AsyncIterator[tuple[M, Access]]:
    """The message of a call and its log record, while it is answered. A failure ends the call."""
    ident = identify(context)
    try:
        with observed_call(api, ident) as access:
            async with intake.admitted() as held:
                async with intake.receiving():
                    data = await context.read()
                if data is grpc.aio.EOF:
                    raise InvalidArgument("the call has no message")
                access.receipt_ended()
                held.shrink(len(data))
                yield await asyncio.to_thread(parse, kind, data), access
    except PoseError as error:
        await abort(context, error)


def parse(kind: type[M], data: bytes) -> M:
    """The message. Raises InvalidArgument. A large message takes long, so call it off the event loop."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise InvalidArgument(f"not a valid {kind.DESCRIPTOR.name}") from None
    return message
