"""The same requests over both protocols."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import httpx

from service.wire.pb import pose_pb2, pose_pb2_grpc
from tests.support.service import Service

Answer = dict[str, Any]  # one of the REST answer's `results`


class Refused(Exception):
    """A failed request: the status of its protocol, and headers or trailing metadata."""

    def __init__(self, status: object, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers


class Client(Protocol):
    """A client of the service."""

    api: str

    def estimate(self, image: bytes, **options: Any) -> Answer:
        """The poses of an image. Raises Refused."""

    def close(self) -> None:
        """Leave."""


class RestClient:
    """Posts raw bodies."""

    api = "rest"

    def __init__(self, service: Service) -> None:
        self.http = httpx.Client(base_url=service.url, timeout=60)

    def estimate(self, image: bytes, **options: Any) -> Answer:
        """See Client."""
        response = self.http.post("/v1/poses", content=image, headers=JPEG, params=options)
        result: Answer = answer(response)["results"][0]
        return result

    def close(self) -> None:
        """See Client."""
        self.http.close()


JPEG = {"content-type": "image/jpeg"}


def answer(response: httpx.Response) -> Any:
    """The JSON of a successful answer. Otherwise checks the problem details and raises Refused."""
    if response.status_code == 200:
        return response.json()
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem.keys() - {"index"} == {"type", "title", "status", "detail", "code"}
    assert problem["status"] == response.status_code
    raise Refused(response.status_code, problem["detail"], dict(response.headers))


class GrpcClient:
    """Calls Estimate."""

    api = "grpc"

    def __init__(self, service: Service) -> None:
        self.channel = grpc.insecure_channel(service.grpc)
        self.stub = pose_pb2_grpc.PoseServiceStub(self.channel)

    def estimate(self, image: bytes, **options: Any) -> Answer:
        """See Client."""
        request = pose_pb2.EstimateRequest(image=image, options=pose_pb2.Options(**options))
        try:
            return plain(self.stub.Estimate(request, timeout=60).poses)
        except grpc.RpcError as error:
            headers = dict(error.trailing_metadata() or ())
            raise Refused(error.code(), error.details(), headers) from None

    def close(self) -> None:
        """See Client."""
        self.channel.close()


def plain(poses: pose_pb2.Poses) -> Answer:
    """A message converted to the form of the REST answer."""
    return {
        "width": poses.width,
        "height": poses.height,
        "persons": [
            {
                "bbox": [p.bbox.x1, p.bbox.y1, p.bbox.x2, p.bbox.y2],
                "score": p.score,
                "keypoints": [[k.x, k.y, k.score] for k in p.keypoints],
            }
            for p in poses.persons
        ],
        "timings": {n: getattr(poses.timings, n) for n in ("decode", "queue", "detect", "pose", "other")},
    }


def frames(images: Iterable[bytes], **options: Any) -> Iterable[pose_pb2.EstimateStreamRequest]:
    """The messages of a stream without drops: a config, then images as frames 100, 101, ..."""
    config = pose_pb2.StreamConfig(options=pose_pb2.Options(**options), policy=pose_pb2.POLICY_ALL)
    yield pose_pb2.EstimateStreamRequest(config=config)
    for frame_id, image in enumerate(images, start=100):
        yield pose_pb2.EstimateStreamRequest(frame=pose_pb2.Frame(frame_id=frame_id, image=image))


@dataclass(frozen=True)
class Failure:
    """The statuses of one failure in both protocols."""

    rest: int
    grpc: grpc.StatusCode

    def of(self, client: Client) -> object:
        """The status for this client."""
        return getattr(self, client.api)
