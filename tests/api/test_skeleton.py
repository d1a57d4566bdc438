"""Every protocol follows the skeleton of the network that runs: here the 16 joints of MPII."""

import signal
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from model.keypoints import COCO, MPII
from service.wire.pb import openinference_pb2, openinference_pb2_grpc, pose_pb2
from tests.support.clients import GrpcClient
from tests.support.networks import save_networks
from tests.support.service import Pixels, Service


@pytest.fixture(scope="module")
def joints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pose network of 16 joints, under a name of its own."""
    folder = save_networks(tmp_path_factory.mktemp("joints"), skeleton=MPII)
    return (folder / "pose.onnx").rename(folder / "sixteen.onnx")


@pytest.fixture(scope="module", params=["thread", "process"])
def sixteen(request: pytest.FixtureRequest, joints: Path, networks: dict[bool, Path]) -> Iterator[Service]:
    """A service of that network, given by POSE_POSE, and of the detector of POSE_WEIGHTS."""
    service = Service(weights=networks[False], pose=joints, worker=request.param)
    yield service
    service.close()


def test_the_skeleton_is_that_of_the_network(sixteen: Service) -> None:
    found = httpx.get(f"{sixteen.url}/v1/skeleton").json()
    assert found == {
        key: [list(v) if isinstance(v, tuple) else v for v in value] for key, value in asdict(MPII).items()
    }
    rpc = GrpcClient(sixteen)
    answer = rpc.stub.GetSkeleton(pose_pb2.GetSkeletonRequest())
    assert tuple(answer.names) == MPII.names
    assert tuple((pair.first, pair.second) for pair in answer.edges) == MPII.edges
    assert tuple((pair.first, pair.second) for pair in answer.flip_pairs) == MPII.flip_pairs
    np.testing.assert_allclose(answer.oks_sigmas, MPII.oks_sigmas, rtol=1e-6)
    rpc.close()


def test_persons_have_sixteen_keypoints(sixteen: Service, photo: bytes) -> None:
    headers = {"content-type": "image/jpeg"}
    url = f"{sixteen.url}/v1/poses?min_score=0"
    (result,) = httpx.post(url, content=photo, headers=headers).json()["results"]
    assert [len(person["keypoints"]) for person in result["persons"]] == [16]
    (coco,) = httpx.post(f"{url}&format=coco", content=photo, headers=headers).json()
    assert len(coco["keypoints"]) == 48
    outputs = httpx.get(f"{sixteen.url}/v2/models/lgm-pose").json()["outputs"]
    assert {each["name"]: each["shape"] for each in outputs}["keypoints"] == [-1, 16, 3]


def test_the_picture_shows_its_limbs(sixteen: Service, pixels: Pixels) -> None:
    """Joints of a colour channel are at its brightest place; only limbs between joints are drawn."""
    image = np.zeros((320, 320, 3), np.uint8)
    places = [(110, 80), (210, 90), (160, 250)]
    for channel, (x, y) in enumerate(places):
        image[y - 8 : y + 9, x - 8 : x + 9, channel] = 255
    data = cv2.imencode(".png", image)[1].tobytes()
    headers = {"content-type": "image/png", "accept": "image/jpeg"}
    answer = httpx.post(f"{sixteen.url}/v1/poses?min_score=0", content=data, headers=headers)
    drawn = np.asarray(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR), np.int16)
    limbs = {frozenset((a % 3, b % 3)) for a, b in MPII.edges if a % 3 != b % 3}
    changed = np.abs(drawn - image).max(2) > 60
    for first in range(3):
        for second in range(first):
            (x1, y1), (x2, y2) = places[first], places[second]
            x, y = (x1 + x2) // 2, (y1 + y2) // 2
            assert changed[y - 4 : y + 5, x - 4 : x + 5].any() == (frozenset((first, second)) in limbs)


def test_a_stream_tracks_them(sixteen: Service, photo: bytes) -> None:
    rpc = GrpcClient(sixteen)
    config = pose_pb2.StreamConfig(policy=pose_pb2.POLICY_ALL, tracking=True, detect_every=3)
    config.options.min_score = 0
    frames = [pose_pb2.Frame(frame_id=n, image=photo, timestamp=n / 10) for n in range(4)]
    requests = [
        pose_pb2.EstimateStreamRequest(config=config),
        *(pose_pb2.EstimateStreamRequest(frame=each) for each in frames),
    ]
    persons = [answer.poses.persons[0] for answer in rpc.stub.EstimateStream(iter(requests))]
    assert [len(person.keypoints) for person in persons] == [16] * 4
    assert {person.track_id for person in persons} == {1}
    rpc.close()


def test_an_image_without_persons_has_the_right_shape_too(sixteen: Service, small: bytes) -> None:
    rpc = GrpcClient(sixteen)
    v2 = openinference_pb2_grpc.GRPCInferenceServiceStub(rpc.channel)
    metadata = v2.ModelMetadata(openinference_pb2.ModelMetadataRequest(name="lgm-pose"))
    assert [list(each.shape) for each in metadata.outputs] == [[-1, 4], [-1], [-1, 16, 3]]
    request = openinference_pb2.ModelInferRequest(model_name="lgm-pose")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(small)
    request.parameters["min_score"].double_param = 1.0
    assert {each.name: list(each.shape) for each in v2.ModelInfer(request).outputs} == {
        "boxes": [0, 4],
        "scores": [0],
        "keypoints": [0, 16, 3],
    }
    rpc.close()


def test_a_reload_keeps_the_skeleton(joints: Path, networks: dict[bool, Path], tmp_path: Path) -> None:
    """Clients ask for the skeleton once, and streams hold keypoints: another one needs a restart."""
    pose = tmp_path / "pose.onnx"
    pose.write_bytes((networks[False] / "pose.onnx").read_bytes())
    service = Service(weights=networks[False], pose=pose)
    pose.write_bytes(joints.read_bytes())
    service.process.send_signal(signal.SIGHUP)
    rejected = service.wait_for_log("networks rejected")
    assert rejected["reason"] == "the pose network has another skeleton: restart the service"
    assert tuple(httpx.get(f"{service.url}/v1/skeleton").json()["names"]) == COCO.names
    service.close()
