"""The shipped networks and the first steps of a new user."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from model.keypoints import NAMES
from service.config import Settings
from tests.support.clients import GrpcClient, RestClient
from tests.support.service import ROOT, Service

# where the astronaut's face is, by eye, in pixels of the photo
FACE = {"nose": (222, 122), "left_eye": (246, 106), "right_eye": (202, 105)}


@pytest.fixture(scope="module")
def shipped() -> Iterator[Service]:
    service = Service(weights=Settings.model_fields["weights"].default)
    yield service
    service.close()


def test_the_astronaut_is_found_by_both_protocols(shipped: Service, photo: bytes) -> None:
    rest, rpc = RestClient(shipped), GrpcClient(shipped)
    one, other = (client.estimate(photo, min_score=0.1)["persons"][0] for client in (rest, rpc))
    assert np.array(one["keypoints"]) == pytest.approx(np.array(other["keypoints"]))
    for name, place in FACE.items():
        x, y, score = one["keypoints"][NAMES.index(name)]
        assert np.hypot(x - place[0], y - place[1]) < 15, name
        assert score > 0.3
    x1, y1, x2, y2 = one["bbox"]
    assert x1 < 222 < x2
    assert y1 < 122 < y2
    rest.close()
    rpc.close()


def test_the_curl_line_works_when_pasted(shipped: Service) -> None:
    (line,) = [line for line in shipped.greeting().splitlines() if "curl" in line]
    command = shlex.split(line.partition("try")[2])
    assert str(ROOT / "examples" / "astronaut.jpg") in command[-2]
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    done = subprocess.run(command, capture_output=True, check=True, cwd="/")
    assert json.loads(done.stdout)["results"][0]["persons"]


def test_the_greeting_shows_the_page_and_the_documents(shipped: Service) -> None:
    assert f"{shipped.url}/\n" in shipped.greeting()
    assert f"{shipped.url}/docs\n" in shipped.greeting()
