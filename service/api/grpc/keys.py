"""Keys over gRPC: every call that is not listed as open requires one."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from service.api.grpc.context import Context, abort, identify
from service.errors import PoseError
from service.observability.access_log import observed_call
from service.security.keys import Keys, shown_key

_OPEN_CALLS = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls with a known key that is within its rate."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See grpc.aio.ServerInterceptor."""
        details = handler_call_details
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN_CALLS):
            return handler
        metadata = {name: value for name, value in details.invocation_metadata if isinstance(value, str)}
        try:
            key = shown_key(metadata.get("authorization", ""), metadata.get("x-api-key", ""))
            self._keys.admit(key)
        except PoseError as error:
            return _refusal(error, "grpc_stream" if handler.request_streaming else "grpc")
        return handler


def _refusal(error: PoseError, api: str) -> Handler:
    """A handler for all kinds of calls that ends them before their messages are read."""

    async def end(_: object, context: Context) -> None:
        try:
            with observed_call(api, identify(context)):
                raise error
        except PoseError:
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(end)
