"""How requests fail."""

import grpc


class ServiceError(Exception):
    """The service, or the way to it, failed a request.

    code: the short stable name of a problem over REST, gRPC's code in small letters, or `unreachable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# what grpc tells in place of the status when the service ended a call while a message was being written
STATUS_LOST = "Internal error from Core"


def service_error(error: grpc.RpcError) -> ServiceError:
    """What a failed call means."""
    if error.details() == STATUS_LOST:
        return ServiceError("unavailable", "the service ended the stream while a frame was being sent")
    return ServiceError(error.code().name.lower(), error.details() or error.code().name)
