"""The Ray Serve application on a cluster of several nodes: the same API, and a node that dies.

Ray is heavy, so not in the extra `test`: pip install -e '.[test,ray]', then pytest tests/deploy/test_ray.py
"""

import json
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.wire.pb import openinference_pb2, openinference_pb2_grpc, pose_pb2, pose_pb2_grpc
from tests.support.clients import JPEG, Answer, GrpcClient, Refused, RestClient, frames
from tests.support.service import ROOT, Pixels, encode

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra `ray`)"),
    pytest.mark.timeout(1200),
]
# a replica that dies is 500 or INTERNAL in Ray's own words; a fault of the service carries its request's id
_OF_RAY = "the replica died"
_ID = "x-request-id"
_RETRYABLE = {503, grpc.StatusCode.UNAVAILABLE, _OF_RAY}


class RayCluster:
    """The cluster of tests/deploy/ray_cluster.py."""

    def __init__(self, weights: Path) -> None:
        http_port, grpc_port = _free_ports(2)
        self.url, self.grpc = f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
        command = [sys.executable, "-m", "tests.deploy.ray_cluster", weights, http_port, grpc_port]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.replicas = self._answer()

    def say(self, word: str) -> int:
        """The number of replicas after a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        self.replicas = self._answer()
        return self.replicas

    def wait_for(self, replicas: int) -> None:
        """Wait until that number of replicas run."""
        for _ in range(600):
            if self.say("replicas") == replicas:
                return
            time.sleep(0.5)
        raise AssertionError(f"{self.replicas} replicas, not {replicas}")

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=180)

    def _answer(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith('{"replicas"'):
                return int(json.loads(line)["replicas"])
        raise AssertionError("the cluster did not start")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster(networks: dict[bool, Path]) -> Iterator[RayCluster]:
    cluster = RayCluster(networks[False])
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def clients(cluster: RayCluster) -> Iterator[tuple[RestClient, GrpcClient]]:
    where: Any = SimpleNamespace(url=cluster.url, grpc=cluster.grpc)
    clients = RestClient(where), GrpcClient(where)
    yield clients
    for client in clients:
        client.close()


def test_both_protocols_answer_as_without_ray(
    clients: tuple[RestClient, GrpcClient], photo: bytes, service: Any
) -> None:
    plain = RestClient(service)
    expected = plain.estimate(photo)["persons"]
    plain.close()
    rest, rpc = clients
    assert rest.estimate(photo)["persons"] == expected
    persons = rpc.estimate(photo)["persons"]
    assert [person["score"] for person in persons] == pytest.approx([p["score"] for p in expected])


def test_failures_keep_their_status_and_their_metadata(
    clients: tuple[RestClient, GrpcClient], photo: bytes
) -> None:
    rest, rpc = clients
    with pytest.raises(Refused) as refusal:
        rest.estimate(b"not an image")
    assert refusal.value.status == 400
    assert "x-request-id" in refusal.value.headers
    with pytest.raises(Refused) as refusal:
        rpc.estimate(b"not an image")
    assert refusal.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "x-request-id" in refusal.value.headers
    with pytest.raises(Refused) as refusal:
        rpc.estimate(photo, min_score=2)
    assert "min_score 2 is not in [0, 1]" in str(refusal.value)


def test_streams_health_and_the_open_inference_protocol(
    clients: tuple[RestClient, GrpcClient], photo: bytes
) -> None:
    _, rpc = clients
    answers = list(rpc.stub.EstimateStream(frames([photo, b"no", photo]), timeout=120))
    assert [each.frame_id for each in answers] == [100, 101, 102]
    assert [each.WhichOneof("answer") for each in answers] == ["poses", "error", "poses"]
    with pytest.raises(grpc.RpcError) as refusal:
        list(rpc.stub.EstimateStream(iter([pose_pb2.EstimateStreamRequest()]), timeout=120))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    health = health_pb2_grpc.HealthStub(rpc.channel).Check(health_pb2.HealthCheckRequest(), timeout=120)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    v2 = openinference_pb2_grpc.GRPCInferenceServiceStub(rpc.channel)
    assert v2.ServerReady(openinference_pb2.ServerReadyRequest(), timeout=120).ready
    skeleton = pose_pb2_grpc.PoseServiceStub(rpc.channel).GetSkeleton(
        pose_pb2.GetSkeletonRequest(), timeout=120
    )
    assert len(skeleton.names) == 17


def test_a_dying_node_under_load_costs_at_most_retries(
    cluster: RayCluster, clients: tuple[RestClient, GrpcClient], pixels: Pixels
) -> None:
    images = [encode(pixels), encode(pixels[:, ::-1])]
    stop = Event()
    outcomes: Counter[object] = Counter()
    last: list[object] = []

    def load(estimate: Callable[[bytes], Answer], number: int) -> None:
        image = images[number % 2]
        expected = estimate(image)["persons"]
        while not stop.is_set():
            outcome = _outcome(estimate, image, expected)
            outcomes[outcome] += 1
            last.append(outcome)

    with ThreadPoolExecutor(4) as pool:
        estimates = _posted_to(clients[0]), clients[1].estimate
        loads = [pool.submit(load, estimate, n) for estimate in estimates for n in range(2)]
        try:
            _wait_until(lambda: outcomes["right"] >= 40, loads)
            assert set(outcomes) == {"right"}
            cluster.say("kill")
            cluster.wait_for(1)
            last.clear()
            _wait_until(lambda: last[-40:] == ["right"] * 40, loads)
            cluster.say("add")
            cluster.wait_for(2)
            last.clear()
            _wait_until(lambda: last[-40:] == ["right"] * 40, loads)
        finally:
            stop.set()
    for each in loads:
        each.result()
    assert set(outcomes) <= {"right", *_RETRYABLE}, outcomes
    assert outcomes.total() - outcomes["right"] <= 4 * len(loads)


def _posted_to(rest: RestClient) -> Callable[[bytes], Answer]:
    """Like `estimate`, but a failure may have the format of Ray's proxy."""

    def estimate(image: bytes) -> Answer:
        response = rest.http.post("/v1/poses", content=image, headers=JPEG)
        if response.status_code != 200:
            raise Refused(response.status_code, response.text, dict(response.headers))
        result: Answer = response.json()["results"][0]
        return result

    return estimate


def _outcome(estimate: Callable[[bytes], Answer], image: bytes, expected: object) -> object:
    try:
        return "right" if estimate(image)["persons"] == expected else "wrong"
    except Refused as error:
        faults = {500, grpc.StatusCode.INTERNAL}
        return _OF_RAY if error.status in faults and _ID not in error.headers else error.status
    except httpx.TransportError:
        return 503  # the connection broke: counts as a retry


def _wait_until(reached: Callable[[], bool], loads: list[Any]) -> None:
    for _ in range(3000):
        if reached():
            return
        assert not any(each.done() for each in loads), [each.exception() for each in loads if each.done()]
        time.sleep(0.1)
    raise AssertionError("not reached")


def test_the_files_agree_with_the_application() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        from deploy.ray.application import GRPC_SERVICER_FUNCTIONS, Arguments
    assert config["grpc_options"]["grpc_servicer_functions"] == GRPC_SERVICER_FUNCTIONS
    (application,) = config["applications"]
    assert application["import_path"] == "deploy.ray.application:build"
    Arguments.model_validate(application["args"])
