"""Clients of the service, for REST and gRPC, blocking and asynchronous; and the command `lgm-pose-client`."""

from lgm_pose_client.credentials import Credentials
from lgm_pose_client.errors import ServiceError
from lgm_pose_client.frames import Answer, Counts, Dropped, Failed, Policy, StreamConfig, StreamFrame
from lgm_pose_client.grpc import AsyncGrpcClient, GrpcClient
from lgm_pose_client.http import AsyncHttpClient, HttpClient
from lgm_pose_client.types import Options, Person, Poses, RawImage, Skeleton, Timings, TrackedPerson

__all__ = [
    "Answer",
    "AsyncGrpcClient",
    "AsyncHttpClient",
    "Counts",
    "Credentials",
    "Dropped",
    "Failed",
    "GrpcClient",
    "HttpClient",
    "Options",
    "Person",
    "Policy",
    "Poses",
    "RawImage",
    "ServiceError",
    "Skeleton",
    "StreamConfig",
    "StreamFrame",
    "Timings",
    "TrackedPerson",
]
