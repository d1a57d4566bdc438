"""Features of gRPC only: streams, health, reflection."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from model.keypoints import EDGES, FLIP_PAIRS, NAMES, OKS_SIGMAS
from service.wire.pb import pose_pb2
from tests.support.clients import GrpcClient, frames, plain
from tests.support.service import Pixels, encode

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_answers_each_frame_in_order(rpc: GrpcClient, pixels: Pixels, photo: bytes) -> None:
    images = [encode(pixels[:200], ".png"), b"bad", photo, photo[:9000], encode(pixels[:300], ".png")]
    answers = list(rpc.stub.EstimateStream(frames(images)))
    assert [a.frame_id for a in answers] == [100, 101, 102, 103, 104]
    assert [a.WhichOneof("answer") for a in answers] == ["poses", "error", "poses", "error", "poses"]
    assert [a.poses.height for a in answers] == [200, 0, 512, 0, 300]
    assert answers[1].error.code == "invalid_image"
    assert "truncated" in answers[3].error.message
    last = answers[-1].counts
    assert (last.received, last.poses, last.errors) == (5, 3, 2)
    assert plain(answers[2].poses)["persons"] == rpc.estimate(photo)["persons"]


def test_a_stream_keeps_its_options(rpc: GrpcClient, photo: bytes) -> None:
    answers = list(rpc.stub.EstimateStream(frames([photo, photo], min_score=1)))
    assert [len(a.poses.persons) for a in answers] == [0, 0]


def test_an_invalid_message_order_ends_the_stream(rpc: GrpcClient, photo: bytes) -> None:
    config, frame = frames([photo])
    empty = pose_pb2.EstimateStreamRequest()
    for messages in ([frame], [], [config, config], [config, frame, empty], [empty]):
        with pytest.raises(grpc.RpcError) as raised:
            list(rpc.stub.EstimateStream(iter(messages)))
        assert raised.value.code() == INVALID


def test_the_skeleton_over_grpc(rpc: GrpcClient) -> None:
    skeleton = rpc.stub.GetSkeleton(pose_pb2.GetSkeletonRequest())
    assert tuple(skeleton.names) == NAMES
    assert tuple((edge.first, edge.second) for edge in skeleton.edges) == EDGES
    assert tuple((pair.first, pair.second) for pair in skeleton.flip_pairs) == FLIP_PAIRS
    assert list(skeleton.oks_sigmas) == pytest.approx(list(OKS_SIGMAS))


def test_health_and_reflection(rpc: GrpcClient) -> None:
    stub = health_pb2_grpc.HealthStub(rpc.channel)
    for name in ("", "pose.v1.PoseService"):
        health = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    query = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(rpc.channel)
    (listed,) = stub.ServerReflectionInfo(iter([query]))
    names = {each.name for each in listed.list_services_response.service}
    assert names >= {"pose.v1.PoseService", "grpc.health.v1.Health"}
