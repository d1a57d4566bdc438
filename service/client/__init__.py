"""Clients of the service, for REST and gRPC, blocking and asynchronous; and a command, `python -m`."""

from service.client.credentials import Credentials
from service.client.errors import ServiceError
from service.client.grpc import AsyncGrpcClient, GrpcClient
from service.client.http import AsyncHttpClient, HttpClient

__all__ = ["AsyncGrpcClient", "AsyncHttpClient", "Credentials", "GrpcClient", "HttpClient", "ServiceError"]
