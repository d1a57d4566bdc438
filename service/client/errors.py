"""How requests fail."""

import grpc


class ServiceError(Exception):
    """The service, or the way to it, failed a request.

    code: the short stable name of a problem over REST, gRPC's code in small letters, or `unreachable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def service_error(error: grpc.RpcError) -> ServiceError:
    """What a failed call means."""
    return ServiceError(error.code().name.lower(), error.details() or error.code().name)
