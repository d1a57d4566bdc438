"""Requests of every kind that the board tells apart."""

from tests.clients import Client, GrpcClient, Refused, RestClient, frames
from tests.conftest import Service


class Load:
    """Asks by REST, gRPC and stream, and badly too."""

    def __init__(self, service: Service, photo: bytes) -> None:
        self._rest, self._grpc = RestClient(service), GrpcClient(service)
        self.service, self._photo = service, photo

    def round(self) -> None:
        """One request of each kind, one after the other."""
        for client in (self._rest, self._grpc):
            client.estimate(self._photo)
            _expect_refusal(client)
        for answer in self._grpc.stub.EstimateStream(iter(frames([self._photo] * 2)), timeout=60):
            assert answer.HasField("poses")

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
