"""Real photos through the running service with the shipped networks, if such photos are available."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.samples import read_shards
from service.config import Settings
from tests.support.clients import GrpcClient, RestClient
from tests.support.service import ROOT, Service

SHARD = ROOT.parent / "shared" / "data" / "val.tar"
EVERY = 30

pytestmark = pytest.mark.skipif(not Path(SHARD).exists(), reason="the research photos are not here")


@pytest.fixture(scope="module")
def shipped() -> Iterator[Service]:
    service = Service(weights=Settings.model_fields["weights"].default)
    yield service
    service.close()


def test_both_protocols_find_the_same_persons(shipped: Service) -> None:
    rest, rpc = RestClient(shipped), GrpcClient(shipped)
    found = 0
    for sample in read_shards([SHARD])[::EVERY]:
        photo = sample.read()
        response = rest.http.post("/v1/poses", content=photo, headers={"content-type": "image/webp"})
        one, other = response.json()["results"][0], rpc.estimate(photo)
        assert len(one["persons"]) == len(other["persons"])
        for ours, theirs in zip(one["persons"], other["persons"], strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
            assert np.array(ours["keypoints"]) == pytest.approx(np.array(theirs["keypoints"]), abs=1e-3)
        found += len(one["persons"])
    rest.close()
    rpc.close()
    assert found > 10
