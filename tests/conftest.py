"""Fixtures for all tests: networks, running services and their clients."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.clients import Client, GrpcClient, RestClient
from tests.support.networks import save_networks
from tests.support.rig import Rig
from tests.support.service import ROOT, Launch, Pixels, Service, encode

# the processes that tests start import the client as the tests do, installed or not
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "client"), os.environ.get("PYTHONPATH", "")])

RUNTIME = "onnx"  # what `auto` chooses depends on the processor


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders with a fast (False) and a slow (True) pair of networks."""
    return {slow: save_networks(tmp_path_factory.mktemp("networks"), slow=slow) for slow in (False, True)}


@pytest.fixture
def launch(networks: dict[bool, Path]) -> Iterator[Launch]:
    """Starts services; `slow=True` uses slow networks, other arguments are settings."""
    services: list[Service] = []

    def start(*, slow: bool = False, **settings: object) -> Service:
        services.append(Service(**{"weights": networks[slow], "runtime": RUNTIME, **settings}))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def service(networks: dict[bool, Path]) -> Iterator[Service]:
    """A shared service for tests that do not change its state."""
    service = Service(weights=networks[False], runtime=RUNTIME)
    yield service
    service.close()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of one person, 512 x 512."""
    return (ROOT / "examples" / "astronaut.jpg").read_bytes()


@pytest.fixture(scope="session")
def pixels(photo: bytes) -> Pixels:
    """The photo, (512, 512, 3) BGR."""
    return np.asarray(cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR), np.uint8)


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
    """A fast image."""
    return encode(pixels[::4, ::4])


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()
