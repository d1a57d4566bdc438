"""Both protocols of a running service: the same cases, the same persons."""

import grpc
import numpy as np
import pytest

from tests.core.test_image import png_of_zeros, with_orientation
from tests.support.clients import Client, Failure, GrpcClient, Refused, RestClient
from tests.support.service import Pixels, Service, encode

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_a_photo_gives_its_persons(client: Client, photo: bytes) -> None:
    result = client.estimate(photo)
    assert (result["width"], result["height"]) == (512, 512)
    (person,) = result["persons"]
    x1, y1, x2, y2 = person["bbox"]
    assert 0 <= x1 < x2 <= 512
    assert 0 <= y1 < y2 <= 512
    assert len(person["keypoints"]) == 17
    assert 0.5 < person["score"] <= 1
    assert all(seconds >= 0 for seconds in result["timings"].values())
    assert result["timings"]["pose"] > 0


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_both_protocols_find_the_same(rest: RestClient, rpc: GrpcClient, pixels: Pixels, suffix: str) -> None:
    for image in (pixels, pixels[:, 100:300], pixels[50:250]):
        data = encode(image, suffix)
        one, other = rest.estimate(data, min_score=0), rpc.estimate(data, min_score=0)
        assert len(one["persons"]) == len(other["persons"]) == 1
        for a, b in zip(one["persons"], other["persons"], strict=True):
            assert a["bbox"] == pytest.approx(b["bbox"])
            assert a["score"] == pytest.approx(b["score"])
            assert np.array(a["keypoints"]) == pytest.approx(np.array(b["keypoints"]))


def test_a_picture_without_persons_gives_none(client: Client) -> None:
    result = client.estimate(encode(np.zeros((48, 64, 3), np.uint8), ".png"))
    assert (result["width"], result["height"], result["persons"]) == (64, 48, [])


def test_coordinates_refer_to_the_upright_image(client: Client) -> None:
    upright = np.full((500, 400, 3), 20, np.uint8)
    upright[280:300, 170:190] = 255
    lying = encode(np.ascontiguousarray(np.rot90(upright)))  # 500 wide, 400 high
    result = client.estimate(with_orientation(lying, 6))
    assert (result["width"], result["height"]) == (400, 500)
    keypoints = np.array(result["persons"][0]["keypoints"])
    assert np.abs(keypoints[:, :2] - (180, 290)).max() < 15


def test_options_filter(client: Client, photo: bytes) -> None:
    assert client.estimate(photo, min_score=1)["persons"] == []
    assert len(client.estimate(photo, max_persons=1)["persons"]) == 1


BAD_IMAGES = {
    "empty": (b"", Failure(400, INVALID), "empty"),
    "text": (b"hello", Failure(400, INVALID), "not an image of an accepted format"),
    "pixels": (png_of_zeros(20_000, 20_000), Failure(413, INVALID), "20000 x 20000 pixels"),
    "side": (png_of_zeros(40_000, 3), Failure(413, INVALID), "side"),
    "header": (b"\xff\xd8\xff\xe0\0\x10JFIF", Failure(400, INVALID), "header"),
}


@pytest.mark.parametrize(("image", "failure", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images_are_refused(client: Client, image: bytes, failure: Failure, words: str) -> None:
    with pytest.raises(Refused, match=words) as refused:
        client.estimate(image)
    assert refused.value.status == failure.of(client)


def test_a_truncated_photo_is_refused(client: Client, photo: bytes) -> None:
    with pytest.raises(Refused, match="truncated") as refused:
        client.estimate(photo[: len(photo) // 2])
    assert refused.value.status == Failure(400, INVALID).of(client)


@pytest.mark.parametrize(
    "options",
    [
        {"min_score": -0.1},
        {"min_score": 1.1},
        {"min_score": float("nan")},
        {"max_persons": 0},
        {"max_persons": 201},
    ],
)
def test_options_out_of_range_are_refused(client: Client, photo: bytes, options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(Refused, match=name) as refused:
        client.estimate(photo, **options)
    assert refused.value.status == Failure(422, INVALID).of(client)


def test_too_many_bytes_are_refused(client: Client, photo: bytes) -> None:
    with pytest.raises(Refused) as refused:
        client.estimate(photo + b"\0" * 21 * 2**20)
    assert refused.value.status == Failure(413, grpc.StatusCode.RESOURCE_EXHAUSTED).of(client)
    assert client.estimate(photo)["persons"]


METRICS = {
    "pose_requests_total": "counter",
    "pose_request_seconds": "histogram",
    "pose_stage_seconds": "histogram",
    "pose_in_flight": "gauge",
    "pose_streams_open": "gauge",
    "pose_stream_frames_total": "counter",
    "pose_queue_depth": "gauge",
    "pose_batch_images": "histogram",
    "pose_batch_crops": "histogram",
    "pose_images_total": "counter",
    "pose_persons_total": "counter",
    "pose_model_info": "gauge",
    "pose_model_reloads_total": "counter",
    "pose_worker_restarts_total": "counter",
}


def test_metrics_have_their_names_and_a_bounded_number_of_series(rest: RestClient, photo: bytes) -> None:
    def exposed() -> tuple[dict[str, str], set[str]]:
        lines = rest.http.get("/metrics").text.splitlines()
        types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE pose_"))
        return types, {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}

    rest.estimate(photo)
    rest.http.get("/v1/0")
    types, before = exposed()
    assert types == METRICS
    for n in range(50):
        rest.http.get(f"/v1/{n}", headers={"x-request-id": f"id{n}"})
    assert exposed()[1] == before


def test_metrics_count_both_protocols(client: Client, service: Service, photo: bytes) -> None:
    code = {"rest": "200", "grpc": "OK"}[client.api]
    names = [
        ("pose_requests_total", {"api": client.api, "code": code}),
        ("pose_request_seconds_count", {"api": client.api}),
        ("pose_stage_seconds_count", {"stage": "decode"}),
        ("pose_stage_seconds_count", {"stage": "pose"}),
        ("pose_batch_images_sum", {}),
        ("pose_batch_crops_sum", {}),
        ("pose_images_total", {}),
        ("pose_persons_total", {}),
    ]
    before = [service.metric(name, **labels) for name, labels in names]
    client.estimate(photo)
    assert [service.metric(name, **labels) - b for (name, labels), b in zip(names, before, strict=True)] == [
        1
    ] * 8
    assert service.metric("pose_in_flight", api=client.api) == 0
