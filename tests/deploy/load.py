"""Requests of every kind that the dashboard shows."""

from service.wire.pb import pose_pb2
from tests.support.clients import Client, GrpcClient, Refused, RestClient, frames
from tests.support.service import Service

FRAMES = 4  # of a stream


class Load:
    """Sends valid and invalid requests over REST, gRPC and a stream."""

    def __init__(self, service: Service, photo: bytes) -> None:
        self._rest, self._grpc = RestClient(service), GrpcClient(service)
        self.service, self._photo = service, photo

    def round(self) -> None:
        """One request of each kind, one after the other."""
        for client in (self._rest, self._grpc):
            client.estimate(self._photo)
            _expect_refusal(client)
        for policy in (pose_pb2.POLICY_ALL, pose_pb2.POLICY_LATEST):
            self._stream(policy)

    def _stream(self, policy: pose_pb2.Policy) -> None:
        config, *sent = frames([self._photo] * FRAMES)
        config.config.policy = policy
        for answer in self._grpc.stub.EstimateStream(iter([config, *sent]), timeout=60):
            assert answer.WhichOneof("answer") in ("poses", "dropped")

    def close(self) -> None:
        """Leave."""
        self._rest.close()
        self._grpc.close()


def _expect_refusal(client: Client) -> None:
    try:
        client.estimate(b"not an image")
    except Refused:
        return
    raise AssertionError("a text was taken for an image")
