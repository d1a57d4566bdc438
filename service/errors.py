"""Failures of requests, with their status in each protocol.

bytes -> [limits] -> image -> [admission] -> place -> [deadline] -> batch -> [inference] -> persons
"""

from copy import copy
from typing import ClassVar

from grpc import StatusCode

RETRY_AFTER_S = 1


class PoseError(Exception):
    """A failure of a request; its text is for the client.

    index: the invalid image of a request with several images. retry_after_s: seconds after which the client
    may try again, if known.
    """

    code: ClassVar[str]
    http_status: ClassVar[int]
    grpc_status: ClassVar[StatusCode]
    retry_after_s: int | None = None
    index: int | None = None

    def at(self, index: int) -> "PoseError":
        """The same failure for image `index`."""
        failure = copy(self)
        failure.index = index
        return failure


class InvalidImage(PoseError):
    """The bytes are not an image that can be decoded."""

    code, http_status, grpc_status = "invalid_image", 400, StatusCode.INVALID_ARGUMENT


class InvalidVideo(PoseError):
    """The bytes are not a video that can be decoded."""

    code, http_status, grpc_status = "invalid_video", 400, StatusCode.INVALID_ARGUMENT


class MalformedBody(PoseError):
    """The body is not what its content type says."""

    code, http_status, grpc_status = "malformed_body", 400, StatusCode.INVALID_ARGUMENT


class NotFound(PoseError):
    """There is no model of that name or version."""

    code, http_status, grpc_status = "not_found", 404, StatusCode.NOT_FOUND


class Unauthenticated(PoseError):
    """The client has sent no key or an unknown one."""

    code, http_status, grpc_status = "unauthenticated", 401, StatusCode.UNAUTHENTICATED


class ForeignOrigin(PoseError):
    """The request comes from a page of another origin."""

    code, http_status, grpc_status = "foreign_origin", 403, StatusCode.PERMISSION_DENIED


class ReceiptTimeout(PoseError):
    """The body did not arrive in time."""

    code, http_status, grpc_status = "receipt_timeout", 408, StatusCode.DEADLINE_EXCEEDED


class ImageTooLarge(PoseError):
    """Too many bytes or too many pixels."""

    code, http_status, grpc_status = "too_large", 413, StatusCode.INVALID_ARGUMENT


class UnsupportedMediaType(PoseError):
    """The type of the body is not supported."""

    code, http_status, grpc_status = "unsupported_media_type", 415, StatusCode.INVALID_ARGUMENT


class InvalidArgument(PoseError):
    """A parameter or form field is unknown or out of range."""

    code, http_status, grpc_status = "invalid_argument", 422, StatusCode.INVALID_ARGUMENT


class Overloaded(PoseError):
    """All places are taken."""

    code, http_status, grpc_status = "overloaded", 429, StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = RETRY_AFTER_S


class RateLimited(PoseError):
    """The client exceeds the rate of its key."""

    code, http_status, grpc_status = "rate_limited", 429, StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, detail: str, *, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Abandoned(PoseError):
    """The client disconnected. The status is the customary one for logs; no one receives it."""

    code, http_status, grpc_status = "abandoned", 499, StatusCode.CANCELLED


class InferenceFailed(PoseError):
    """A fault of the service, reported without details."""

    code, http_status, grpc_status = "internal", 500, StatusCode.INTERNAL

    def __init__(self, detail: str = "the image could not be processed") -> None:
        super().__init__(detail)


class NotInstalled(PoseError):
    """The request needs an extra that is not installed."""

    code, http_status, grpc_status = "not_installed", 501, StatusCode.UNIMPLEMENTED


class ShuttingDown(PoseError):
    """The service accepts no new requests."""

    code, http_status, grpc_status = "shutting_down", 503, StatusCode.UNAVAILABLE
    retry_after_s = RETRY_AFTER_S


class WorkerLost(PoseError):
    """The inference worker crashed or hung and is being restarted."""

    code, http_status, grpc_status = "worker_lost", 503, StatusCode.UNAVAILABLE
    retry_after_s = RETRY_AFTER_S

    def __init__(self, detail: str = "the worker crashed and is being restarted") -> None:
        super().__init__(detail)


class StorageFull(PoseError):
    """There is no disk space to store an upload."""

    code, http_status, grpc_status = "storage_full", 507, StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = RETRY_AFTER_S


class DeadlineExceeded(PoseError):
    """The answer was not ready in time."""

    code, http_status, grpc_status = "deadline_exceeded", 504, StatusCode.DEADLINE_EXCEEDED


class ConfigError(Exception):
    """Invalid keys or certificates; start-up stops."""


class ArtefactError(Exception):
    """An invalid network file; start-up stops."""
