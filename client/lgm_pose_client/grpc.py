"""Clients over gRPC."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

import grpc

from lgm_pose_client.credentials import ANYBODY, Credentials
from lgm_pose_client.errors import service_error
from lgm_pose_client.frames import Answer, StreamConfig, StreamFrame
from lgm_pose_client.messages import (
    config_message,
    estimate_message,
    frame_message,
    read_answer,
    read_poses,
)
from lgm_pose_client.pb import pose_pb2, pose_pb2_grpc
from lgm_pose_client.reconnecting import ReconnectingStream
from lgm_pose_client.types import Options, Poses

ADDRESS = "127.0.0.1:50051"
# grpc itself would wait up to two minutes before it tries a broken connection again
_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 250), ("grpc.max_reconnect_backoff_ms", 5000))


class GrpcClient:
    """Blocking calls over gRPC, with TLS to an address like https://host:port. Each raises ServiceError."""

    def __init__(
        self, address: str = ADDRESS, *, timeout_s: float = 60, credentials: Credentials = ANYBODY
    ) -> None:
        self._channel = credentials.channel(address, _OPTIONS)
        self._metadata = credentials.metadata()
        self._stub = pose_pb2_grpc.PoseServiceStub(self._channel)
        self._timeout_s = timeout_s

    def estimate(self, image: bytes, options: Options | None = None) -> Poses:
        """The persons of an encoded image."""
        request = estimate_message(image, options or Options())
        try:
            answer = self._stub.Estimate(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise service_error(error) from error
        return read_poses(answer.poses)

    def stream(self, frames: Iterable[StreamFrame], config: StreamConfig | None = None) -> Iterator[Answer]:
        """The answer to each frame, in order. Ends with the connection; AsyncGrpcClient connects again."""

        def messages() -> Iterator[pose_pb2.EstimateStreamRequest]:
            yield config_message(config or StreamConfig())
            yield from map(frame_message, frames)

        call = self._stub.EstimateStream(messages(), metadata=self._metadata)
        try:
            for message in call:
                yield read_answer(message)
        except grpc.RpcError as error:
            raise service_error(error) from error
        finally:
            call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


class AsyncGrpcClient:
    """Asynchronous calls over gRPC. Each raises ServiceError."""

    def __init__(
        self, address: str = ADDRESS, *, timeout_s: float = 60, credentials: Credentials = ANYBODY
    ) -> None:
        self._channel = credentials.async_channel(address, _OPTIONS)
        self._metadata = credentials.metadata()
        self._stub = pose_pb2_grpc.PoseServiceStub(self._channel)
        self._timeout_s = timeout_s

    async def estimate(self, image: bytes, options: Options | None = None) -> Poses:
        """See GrpcClient."""
        request = estimate_message(image, options or Options())
        try:
            answer = await self._stub.Estimate(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise service_error(error) from error
        return read_poses(answer.poses)

    def stream(
        self,
        frames: AsyncIterator[StreamFrame],
        config: StreamConfig | None = None,
        *,
        give_up_s: float = 30,
    ) -> AsyncGenerator[Answer, None]:
        """The answer to each frame, in order, over as many connections as it takes.

        A frame whose connection broke is answered as failed, with the code `connection_lost`; the counts are
        those over all connections. Raises ServiceError once there has been no connection for give_up_s.
        """
        open_call = partial(self._stub.EstimateStream, metadata=self._metadata)
        return ReconnectingStream(open_call, config or StreamConfig(), give_up_s).answers(frames)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()
