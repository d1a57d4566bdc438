"""How requests fail, and how long a refused request is repeated."""

from typing import Any

import grpc


class ServiceError(Exception):
    """The service, or the connection to it, failed a request.

    code: the short stable name of a REST problem, gRPC's code in small letters, `too_large`, `unreachable`,
    `proxy` or `invalid_answer`. retry_after_s: seconds after which the request can be sent again, where the
    service says so.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class Patience:
    """The total time that a request may wait while the service refuses it."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def pause(self, error: ServiceError) -> float:
        """The seconds to wait before the next try. Raises `error` if they are unknown or too many."""
        if error.retry_after_s is None or error.retry_after_s > self._left:
            raise error
        self._left -= error.retry_after_s
        return error.retry_after_s


# what grpc reports in place of the status when the service ended a call while a message was being written
STATUS_LOST = "Internal error from Core"
_PUSHBACK = "grpc-retry-pushback-ms"


def service_error(error: grpc.RpcError) -> ServiceError:
    """The failure of a call."""
    details = error.details() or error.code().name
    if details == STATUS_LOST:
        return ServiceError("unavailable", "the service ended the stream while a frame was being sent")
    if is_too_large(error):
        return ServiceError("too_large", f"{details}; the service's setting POSE_MAX_BODY_BYTES is the limit")
    metadata: Any = error.trailing_metadata() or ()
    retry_after_s = next((int(value) / 1000 for key, value in metadata if key == _PUSHBACK), None)
    return ServiceError(error.code().name.lower(), details, retry_after_s=retry_after_s)


def is_too_large(error: grpc.RpcError) -> bool:
    """Whether the message was larger than the service accepts."""
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or "")
