"""Clients of the running service."""

from collections.abc import Iterator

import pytest

from tests.clients import Client, GrpcClient, RestClient
from tests.conftest import Service


@pytest.fixture(scope="module")
def rest(service: Service) -> Iterator[RestClient]:
    client = RestClient(service)
    yield client
    client.close()


@pytest.fixture(scope="module")
def rpc(service: Service) -> Iterator[GrpcClient]:
    client = GrpcClient(service)
    yield client
    client.close()


@pytest.fixture(scope="module", params=["rest", "rpc"])
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.getfixturevalue(request.param)
    return chosen
