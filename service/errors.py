"""What can go wrong, with the status it has in each protocol.

bytes -> [limits] -> image -> [admission] -> place -> [deadline] -> batch -> [inference] -> persons
"""

from typing import ClassVar

from grpc import StatusCode


class PoseError(Exception):
    """A failure that a caller is told about; the text is meant for the caller.

    index: which image of a request of several is at fault, where it is one.
    """

    code: ClassVar[str]
    http_status: ClassVar[int]
    grpc_status: ClassVar[StatusCode]

    def __init__(self, detail: str, *, index: int | None = None) -> None:
        super().__init__(detail)
        self.index = index

    def at(self, index: int) -> "PoseError":
        """The same failure, of image `index`."""
        return type(self)(str(self), index=index)


class InvalidImage(PoseError):
    """The bytes are not an image that can be decoded."""

    code, http_status, grpc_status = "invalid_image", 400, StatusCode.INVALID_ARGUMENT


class InvalidVideo(PoseError):
    """The bytes are not a video that can be decoded."""

    code, http_status, grpc_status = "invalid_video", 400, StatusCode.INVALID_ARGUMENT


class MalformedBody(PoseError):
    """The body is not what its content type says."""

    code, http_status, grpc_status = "malformed_body", 400, StatusCode.INVALID_ARGUMENT


class ReceiptTimeout(PoseError):
    """The body did not arrive in time."""

    code, http_status, grpc_status = "receipt_timeout", 408, StatusCode.DEADLINE_EXCEEDED


class ImageTooLarge(PoseError):
    """Too many bytes or too many pixels."""

    code, http_status, grpc_status = "too_large", 413, StatusCode.INVALID_ARGUMENT


class UnsupportedMediaType(PoseError):
    """The body is of a type that is not taken."""

    code, http_status, grpc_status = "unsupported_media_type", 415, StatusCode.INVALID_ARGUMENT


class InvalidArgument(PoseError):
    """A parameter or form field is unknown or out of range."""

    code, http_status, grpc_status = "invalid_argument", 422, StatusCode.INVALID_ARGUMENT


class Overloaded(PoseError):
    """Every place is taken; `RETRY_AFTER_S` seconds later there may be one."""

    code, http_status, grpc_status = "overloaded", 429, StatusCode.RESOURCE_EXHAUSTED


class Abandoned(PoseError):
    """The caller went away; nobody reads the answer. The status is the customary one for logs."""

    code, http_status, grpc_status = "abandoned", 499, StatusCode.CANCELLED


class InferenceFailed(PoseError):
    """A fault of the service, told without particulars."""

    code, http_status, grpc_status = "internal", 500, StatusCode.INTERNAL

    def __init__(self, detail: str = "the image could not be processed", *, index: int | None = None) -> None:
        super().__init__(detail, index=index)


class NotInstalled(PoseError):
    """What the request needs is an extra that this service was installed without."""

    code, http_status, grpc_status = "not_installed", 501, StatusCode.UNIMPLEMENTED


class ShuttingDown(PoseError):
    """The service takes no new work."""

    code, http_status, grpc_status = "shutting_down", 503, StatusCode.UNAVAILABLE


class DeadlineExceeded(PoseError):
    """The answer was not ready in time."""

    code, http_status, grpc_status = "deadline_exceeded", 504, StatusCode.DEADLINE_EXCEEDED


class ArtefactError(Exception):
    """A network file that cannot be served; start-up stops."""


RETRY_AFTER_S = 1
