"""Clients over gRPC."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

import grpc

from lgm_pose_client.clock import TimestampCheck
from lgm_pose_client.credentials import ANYBODY, Credentials
from lgm_pose_client.errors import Patience, service_error
from lgm_pose_client.frames import Answer, StreamConfig, StreamFrame
from lgm_pose_client.messages import (
    config_message,
    estimate_message,
    frame_message,
    read_answer,
    read_poses,
    read_skeleton,
)
from lgm_pose_client.pb import pose_pb2, pose_pb2_grpc
from lgm_pose_client.pictures import EncodedImage, encoded
from lgm_pose_client.reconnecting import ReconnectingStream
from lgm_pose_client.types import Options, Poses, Skeleton

ADDRESS = "127.0.0.1:50051"
PATIENCE_S = 60.0
# pings show within 30 s that a connection passes no more bytes though it is open; grpc itself sends none
KEEPALIVE_S, PING_TIMEOUT_S = 10.0, 10.0


class GrpcClient:
    """Blocking calls over gRPC, with TLS to an address like https://host:port. Each raises ServiceError.

    timeout_s: for an answer. patience_s: total time for an image that the service refuses; the image is sent
    again after the time that the service states.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        timeout_s: float = 60,
        patience_s: float = PATIENCE_S,
        credentials: Credentials = ANYBODY,
    ) -> None:
        self._channel = credentials.channel(address, _options())
        self._metadata = credentials.metadata()
        self._stub = pose_pb2_grpc.PoseServiceStub(self._channel)
        self._timeout_s, self._patience_s = timeout_s, patience_s

    def estimate(self, image: EncodedImage, options: Options | None = None) -> Poses:
        """The persons of an image: bytes, a file, or an array (height, width, 3) uint8 in BGR.

        Raises OSError and ValueError for an image that cannot be read.
        """
        request = estimate_message(encoded(image), options or Options())
        patience = Patience(self._patience_s)
        while True:
            try:
                answer = self._stub.Estimate(request, timeout=self._timeout_s, metadata=self._metadata)
                return read_poses(answer.poses)
            except grpc.RpcError as error:
                failure = service_error(error)
            time.sleep(patience.pause(failure))

    def skeleton(self) -> Skeleton:
        """What the keypoints of each person are."""
        try:
            request = pose_pb2.GetSkeletonRequest()
            return read_skeleton(
                self._stub.GetSkeleton(request, timeout=self._timeout_s, metadata=self._metadata)
            )
        except grpc.RpcError as error:
            raise service_error(error) from error

    def stream(self, frames: Iterable[StreamFrame], config: StreamConfig | None = None) -> Iterator[Answer]:
        """The answer to each frame, in order. Ends when the connection breaks; AsyncGrpcClient reconnects.

        Raises what `frames` raises, after the frames before it are answered.
        """
        chosen = config or StreamConfig()
        failures: list[Exception] = []

        def messages() -> Iterator[pose_pb2.EstimateStreamRequest]:
            check = TimestampCheck(chosen)
            try:
                yield config_message(chosen)
                for frame in frames:
                    check.see(frame)
                    yield frame_message(frame)
            except Exception as error:  # grpc would replace it by an error of its own
                failures.append(error)

        call = self._stub.EstimateStream(messages(), metadata=self._metadata)
        try:
            for message in call:
                yield read_answer(message)
        except grpc.RpcError as error:
            raise service_error(error) from error
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


class AsyncGrpcClient:
    """Asynchronous calls over gRPC. Each raises ServiceError. See GrpcClient."""

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        timeout_s: float = 60,
        patience_s: float = PATIENCE_S,
        credentials: Credentials = ANYBODY,
    ) -> None:
        self._channel = credentials.async_channel(address, _options())
        self._metadata = credentials.metadata()
        self._stub = pose_pb2_grpc.PoseServiceStub(self._channel)
        self._timeout_s, self._patience_s = timeout_s, patience_s

    async def estimate(self, image: EncodedImage, options: Options | None = None) -> Poses:
        """See GrpcClient."""
        data = image if isinstance(image, bytes) else await asyncio.to_thread(encoded, image)
        request = estimate_message(data, options or Options())
        patience = Patience(self._patience_s)
        while True:
            try:
                answer = await self._stub.Estimate(request, timeout=self._timeout_s, metadata=self._metadata)
                return read_poses(answer.poses)
            except grpc.RpcError as error:
                failure = service_error(error)
            await asyncio.sleep(patience.pause(failure))

    async def skeleton(self) -> Skeleton:
        """See GrpcClient."""
        try:
            request = pose_pb2.GetSkeletonRequest()
            return read_skeleton(
                await self._stub.GetSkeleton(request, timeout=self._timeout_s, metadata=self._metadata)
            )
        except grpc.RpcError as error:
            raise service_error(error) from error

    def stream(
        self,
        frames: AsyncIterator[StreamFrame],
        config: StreamConfig | None = None,
        *,
        give_up_s: float = 30,
    ) -> AsyncGenerator[Answer, None]:
        """The answer to each frame, in order. Opens a new connection when one breaks.

        A frame whose connection broke is answered as failed, with the code `connection_lost`; the counts are
        those over all connections. A track id is not used twice: after a break persons get new ids.
        A connection that passes no bytes is replaced within 2 * KEEPALIVE_S + PING_TIMEOUT_S.

        Raises ServiceError after give_up_s without a connection, or at once for a frame that is larger than
        the service accepts. Raises what `frames` raises, after the frames before it are answered.
        """
        open_call = partial(self._stub.EstimateStream, metadata=self._metadata)
        return ReconnectingStream(open_call, config or StreamConfig(), give_up_s).answers(frames)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()


def _options() -> tuple[tuple[str, int], ...]:
    return (
        # grpc itself would wait up to two minutes before it tries a broken connection again
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", round(PING_TIMEOUT_S * 1000)),
        # of other pings: one that measures the bandwidth is often under way, and no second one is sent
        ("grpc.http2.ping_timeout_ms", round(PING_TIMEOUT_S * 1000)),
        (
            "grpc.http2.max_pings_without_data",
            0,
        ),  # no limit: also without frames
    )
