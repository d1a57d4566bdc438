"""Features of REST only: forms, formats, drawn images, problem details, documents."""

import socket
from collections.abc import Iterator

import cv2
import httpx
import numpy as np
import pytest

from model.keypoints import EDGES, FLIP_PAIRS, NAMES, OKS_SIGMAS
from service.wire.pb import pose_pb2
from tests.support.clients import JPEG, GrpcClient, Refused, RestClient, answer
from tests.support.service import Pixels, Service, encode

HEAD = b"POST /v1/poses HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\n"


def test_several_files_are_answered_in_their_order(rest: RestClient, pixels: Pixels) -> None:
    files = [("image", (f"{n}.png", encode(pixels[:n], ".png"))) for n in (200, 300, 400)]
    answered = answer(rest.http.post("/v1/poses", files=files))
    assert [result["height"] for result in answered["results"]] == [200, 300, 400]
    about = {"name": "tiny-pose", "version": "0", "commit": "0" * 40, "runtime": "onnxruntime"}
    about["precision"] = "float32"
    assert answered["model"]["pose"] == about
    assert answered["model"]["detector"]["name"] == "tiny-detector"


def test_one_bad_file_fails_its_request_by_index(rest: RestClient, photo: bytes) -> None:
    files = [("image", (f"{n}.jpg", data)) for n, data in enumerate((photo, photo[:5000], b"?"))]
    for index, chosen in ((1, files[:2]), (1, files), (0, files[2:])):
        response = rest.http.post("/v1/poses", files=chosen)
        assert response.status_code == 400
        assert response.json()["index"] == index
        assert f"image {index}: " in response.json()["detail"]


def test_coco_results(rest: RestClient, photo: bytes) -> None:
    files = [("image", encode(np.zeros((9, 9, 3), np.uint8), ".png")), ("image", photo)]
    (result,) = answer(rest.http.post("/v1/poses", params={"format": "coco"}, files=files))
    (person,) = rest.estimate(photo)["persons"]
    x1, y1, x2, y2 = person["bbox"]
    assert result == {
        "image_id": 1,
        "category_id": 1,
        "keypoints": [value for keypoint in person["keypoints"] for value in keypoint],
        "score": person["score"],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    }


def test_the_picture_answer_shows_the_skeleton(rest: RestClient, photo: bytes, pixels: Pixels) -> None:
    headers = {"accept": "image/jpeg", **JPEG}
    response = rest.http.post("/v1/poses", content=photo, headers=headers)
    assert response.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    change = np.abs(drawn.astype(int) - pixels).max(2)
    for x, y, _ in rest.estimate(photo)["persons"][0]["keypoints"]:
        assert change[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].max() > 60
    assert np.median(change) < 10
    refused = rest.http.post(
        "/v1/poses", files=[("image", photo), ("image", photo)], headers={"accept": "image/jpeg"}
    )
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"files": {"photo": b"x"}}, 422, "unknown form field 'photo'"),
        ({"data": {"image": "text"}, "files": {"image": b"x"}}, 422, "not a file"),
        ({"files": {"image": b"x"}, "params": {"fromat": "coco"}}, 422, "fromat"),
        ({"files": {"image": b"x"}, "params": {"format": "xml"}}, 422, "format"),
        ({"files": {"image": b"x"}, "params": {"max_persons": "many"}}, 422, "max_persons"),
        ({"json": {"image": "x"}}, 415, "json.*send the bytes of the file.*base64 is not"),
        ({"content": b"x"}, 415, "none"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "form"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "form"),
        ({"content": b"--a--", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 422, "no f"),
        ({"files": [("image", b"x")] * 65}, 422, "65 images"),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused(
    rest: RestClient, request_: dict[str, object], status: int, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        answer(rest.http.post("/v1/poses", **request_))  # type: ignore[arg-type]
    assert refused.value.status == status


def form_of(*photos: bytes) -> tuple[bytes, dict[str, str]]:
    """A form with the photos, and its content type."""
    request = httpx.Request(
        "POST", "http://x", files=[("image", (f"{n}.jpg", p)) for n, p in enumerate(photos)]
    )
    return request.read(), {"content-type": request.headers["content-type"]}


@pytest.mark.parametrize("count", [1, 3])
def test_a_truncated_form_is_refused(rest: RestClient, photo: bytes, count: int) -> None:
    form, headers = form_of(*[photo] * count)
    assert len(answer(rest.http.post("/v1/poses", content=form, headers=headers))["results"]) == count
    closing = form.rindex(b"\r\n--")
    for cut in (form[:closing], form[: closing - 1000], form[:-4]):
        with pytest.raises(Refused, match="the form is truncated") as refused:
            answer(rest.http.post("/v1/poses", content=cut, headers=headers))
        assert refused.value.status == 400


def test_a_form_may_end_without_a_line_break(rest: RestClient, photo: bytes) -> None:
    form, headers = form_of(photo)
    assert answer(rest.http.post("/v1/poses", content=form.rstrip(), headers=headers))["results"]


def test_a_form_of_too_many_parts_is_refused(rest: RestClient) -> None:
    form, headers = form_of(*[b""] * 1001)
    with pytest.raises(Refused, match="1000 parts"):
        answer(rest.http.post("/v1/poses", content=form, headers=headers))


def test_common_ways_to_send_an_image_are_taken(rest: RestClient, photo: bytes) -> None:
    expected = rest.estimate(photo)["persons"]
    for request in (
        {"files": {"file": ("a.jpg", photo)}},
        {"content": photo, "headers": {"content-type": "application/octet-stream"}},
        {"content": photo, "headers": {"content-type": "Image/JPEG; q=1"}},
    ):
        assert answer(rest.http.post("/v1/poses", **request))["results"][0]["persons"] == expected


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/poses", 405), ("GET", "/v3", 404)])
def test_unknown_paths_and_methods_are_problems(
    rest: RestClient, method: str, path: str, status: int
) -> None:
    with pytest.raises(Refused) as refused:
        answer(rest.http.request(method, path))
    assert refused.value.status == status
    assert status != 405 or refused.value.headers["allow"] == "POST"


def test_a_body_without_end_is_cut_off(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        # what the service has not read yet must not pile up on this side
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"\xff" * 65536 + b"\r\n"
        sent = 0
        answered = b""
        try:
            while sent < 200 * 2**20:
                connection.sendall(chunk)
                sent += 65536
        except OSError:
            pass
        answered = connection.recv(65536)
    assert answered.startswith(b"HTTP/1.1 413 ")
    assert sent < 40 * 2**20


def test_request_ids(rest: RestClient, rpc: GrpcClient, service: Service, photo: bytes) -> None:
    given = {"x-request-id": "camera-7.frame_1"}
    assert rest.http.get("/healthz", headers=given).headers["x-request-id"] == "camera-7.frame_1"
    made = rest.http.get("/healthz", headers={"x-request-id": 'evil"\tid'}).headers["x-request-id"]
    assert made.isalnum()
    _, call = rpc.stub.Estimate.with_call(
        pose_pb2.EstimateRequest(image=photo), metadata=(("x-request-id", "from-grpc"),)
    )
    assert dict(call.trailing_metadata())["x-request-id"] == "from-grpc"
    line = service.wait_for_log("request", request_id="from-grpc")
    assert {"api": "grpc", "code": "OK", "images": 1, "persons": 1}.items() <= line.items()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"])
def test_probes_answer_head(rest: RestClient, path: str) -> None:
    response = rest.http.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_probes_skeleton_and_documents(rest: RestClient) -> None:
    assert answer(rest.http.get("/healthz")) == {"status": "ok"}
    assert answer(rest.http.get("/readyz")) == {"status": "ready"}
    skeleton = answer(rest.http.get("/v1/skeleton"))
    assert tuple(skeleton["names"]) == NAMES
    assert tuple(map(tuple, skeleton["edges"])) == EDGES
    assert tuple(map(tuple, skeleton["flip_pairs"])) == FLIP_PAIRS
    assert tuple(skeleton["oks_sigmas"]) == OKS_SIGMAS
    assert rest.http.get("/", follow_redirects=True).status_code == 200
    post = answer(rest.http.get("/openapi.json"))["paths"]["/v1/poses"]["post"]
    assert set(post["requestBody"]["content"]) >= {"multipart/form-data", "image/jpeg"}
    assert set(post["responses"]) == {"200", *map(str, (400, 408, 413, 415, 422, 429, 500, 501, 503, 504))}
    assert set(post["responses"]["200"]["content"]) == {"application/json", "image/jpeg"}


def test_every_reference_of_the_openapi_document_resolves(rest: RestClient) -> None:
    document = answer(rest.http.get("/openapi.json"))

    def references(node: object) -> Iterator[str]:
        children = (
            node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        )
        for key, child in children:
            if key == "$ref":
                yield child
            yield from references(child)

    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names
    assert names <= set(document["components"]["schemas"])


def test_a_client_that_disconnects_during_an_upload_causes_no_server_error(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    before = service.metric("pose_requests_total", api="rest", code="499")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(HEAD + b"content-length: 1000\r\n\r\nabc")
        while service.metric("pose_in_flight", api="rest") == 0:
            pass
    with httpx.Client(base_url=service.url) as http:
        while service.metric("pose_in_flight", api="rest") > 0:
            pass
        assert http.get("/readyz").status_code == 200
    assert service.metric("pose_requests_total", api="rest", code="499") == before + 1
