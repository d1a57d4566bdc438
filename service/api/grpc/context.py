"""Shared by all gRPC calls: the id of a call, and its failure with a status."""

from typing import Any, NoReturn, TypeAlias

from grpc.aio import ServicerContext

from service.errors import PoseError
from service.observability.access_log import request_id
from service.observability.tracing import TRACEPARENT, join_trace

Context: TypeAlias = "ServicerContext[Any, Any]"


def identify(context: Context) -> str:
    """The call's id, which the trailing metadata returns. The call joins its client's trace."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    join_trace(metadata.get(TRACEPARENT))
    ident = request_id(metadata.get("x-request-id"))
    context.set_trailing_metadata((("x-request-id", ident),))
    return ident


async def abort(context: Context, error: PoseError) -> NoReturn:
    """Ends the call with the error's status and, if known, the time after which to try again."""
    if error.retry_after_s is not None:
        pushback = ("grpc-retry-pushback-ms", str(error.retry_after_s * 1000))
        context.set_trailing_metadata((*context.trailing_metadata(), pushback))
    await context.abort(error.grpc_status, str(error))
    raise AssertionError("abort raises")
