"""Clients of the running service."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients import Client, GrpcClient, RestClient
from tests.conftest import Pixels, Service, encode
from tests.rig import Rig


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


@pytest.fixture(scope="session")
def small(pixels: Pixels) -> bytes:
    """A quick picture."""
    return encode(pixels[::4, ::4])


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()
