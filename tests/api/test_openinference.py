"""The Open Inference Protocol with NVIDIA's client, over REST and gRPC."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import numpy.typing as npt
import pytest

from service.wire.pb import openinference_pb2 as pb
from service.wire.pb import openinference_pb2_grpc
from tests.api.triton import Reply, Triton
from tests.support.clients import Answer, RestClient
from tests.support.service import ROOT, Launch, Pixels, Service, encode

INFER = "/v2/models/lgm-pose/infer"
STATUSES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT"}


@dataclass
class Asked:
    """A client and its service."""

    protocol: str
    triton: Triton
    service: Service

    @property
    def api(self) -> str:
        """The label of its requests in the metrics."""
        return "rest_v2" if self.protocol == "http" else "grpc_v2"

    def refused(self, reply: Reply, status: int, message: str) -> None:
        """Fails unless the reply has that HTTP status or its gRPC equivalent."""
        expected = str(status) if self.protocol == "http" else f"StatusCode.{STATUSES[status]}"
        assert reply.status == expected, reply
        assert message in reply.message


@pytest.fixture(scope="module", params=["http", "grpc"])
def asked(request: pytest.FixtureRequest, service: Service) -> Iterator[Asked]:
    address = service.url.removeprefix("http://") if request.param == "http" else service.grpc
    triton = Triton(request.param, address)
    yield Asked(request.param, triton, service)
    triton.close()


def image_of(*images: bytes) -> npt.NDArray[np.object_]:
    return np.array(images, np.object_)


def check(reply: Reply, answer: Answer) -> None:
    """Fails unless the tensors equal the answer of POST /v1/poses."""
    assert reply.status == "", reply
    persons = answer["persons"]
    assert persons
    assert reply.outputs.keys() == {"boxes", "scores", "keypoints"}
    assert all(array.dtype == np.float32 for array in reply.outputs.values())
    np.testing.assert_allclose(reply.outputs["boxes"], [p["bbox"] for p in persons], rtol=1e-6)
    np.testing.assert_allclose(reply.outputs["scores"], [p["score"] for p in persons], rtol=1e-6)
    np.testing.assert_allclose(reply.outputs["keypoints"], [p["keypoints"] for p in persons], rtol=1e-6)


def test_an_encoded_image_gives_the_persons_of_v1(asked: Asked, rest: RestClient, photo: bytes) -> None:
    check(asked.triton.infer({"image": image_of(photo)}), rest.estimate(photo))


def test_pixels_give_the_persons_of_the_same_picture(asked: Asked, rest: RestClient, pixels: Pixels) -> None:
    cut = pixels[100:400, :352]
    rgb = np.ascontiguousarray(cut[None, ..., ::-1])
    check(asked.triton.infer({"pixels": rgb}), rest.estimate(encode(cut, ".png")))


def test_an_image_without_persons_has_empty_tensors(asked: Asked, photo: bytes) -> None:
    reply = asked.triton.infer({"image": image_of(photo)}, parameters={"min_score": 1.0, "max_persons": 3})
    shapes = {name: array.shape for name, array in reply.outputs.items()}
    assert shapes == {"boxes": (0, 4), "scores": (0,), "keypoints": (0, 17, 3)}


def test_only_the_outputs_asked_for_come_back_and_the_id_with_them(asked: Asked, photo: bytes) -> None:
    reply = asked.triton.infer(
        {"image": image_of(photo)}, wanted=["scores"], request_id="42", model_version="1"
    )
    assert reply.outputs.keys() == {"scores"}
    assert reply.content["id"] == "42"


def test_a_request_is_counted_and_logged_once(asked: Asked, photo: bytes) -> None:
    good = "200" if asked.protocol == "http" else "OK"
    before = asked.service.metric("pose_requests_total", api=asked.api, code=good)
    asked.triton.infer({"image": image_of(photo)})
    assert asked.service.metric("pose_requests_total", api=asked.api, code=good) == before + 1
    (*_, line) = [each for each in asked.service.log if each.get("api") == asked.api]
    assert line["code"] == good and line["persons"] == 1


@pytest.mark.parametrize(
    ("inputs", "request_", "status", "message"),
    [
        ({"image": image_of(b"not an image")}, {}, 400, "not an image of an accepted format"),
        ({"image": image_of(b"")}, {}, 400, "empty"),
        ({"image": image_of(b"one", b"two")}, {}, 422, "shape [1], not [2]"),
        ({"image": np.zeros((1,), np.uint8)}, {}, 422, "'image' is BYTES, not 'UINT8'"),
        ({"pixels": np.zeros((1, 4, 4, 3), np.float32)}, {}, 422, "'pixels' is UINT8, not 'FP32'"),
        ({"pixels": np.zeros((2, 4, 4, 3), np.uint8)}, {}, 422, "shape [1, -1, -1, 3], not [2, 4, 4, 3]"),
        ({"pixels": np.zeros((4, 4, 3), np.uint8)}, {}, 422, "not [4, 4, 3]"),
        ({"pixels": np.zeros((1, 1, 40_000, 3), np.uint8)}, {}, 413, "a side of 40000 pixels"),
        ({"picture": image_of(b"x")}, {}, 422, "unknown input 'picture'"),
        ({"image": image_of(b"x"), "pixels": np.zeros((1, 4, 4, 3), np.uint8)}, {}, 422, "2 inputs"),
        ({"image": image_of(b"x")}, {"model": "other"}, 404, "no model 'other'"),
        ({"image": image_of(b"x")}, {"model_version": "2"}, 404, "no version '2'"),
        ({"image": image_of(b"x")}, {"wanted": ["heatmaps"]}, 422, "unknown output 'heatmaps'"),
        ({"image": image_of(b"x")}, {"wanted": ["boxes", "boxes"]}, 422, "named twice"),
        ({"image": image_of(b"x")}, {"parameters": {"colour": "red"}}, 422, "unknown parameter 'colour'"),
        ({"image": image_of(b"x")}, {"parameters": {"min_score": 1.5}}, 422, "'min_score'"),
        ({"image": image_of(b"x")}, {"parameters": {"min_score": "0"}}, 422, "'min_score'"),
        ({"image": image_of(b"x")}, {"parameters": {"max_persons": 0}}, 422, "'max_persons'"),
        ({"image": image_of(b"x")}, {"parameters": {"max_persons": True}}, 422, "'max_persons'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_describe_what_is_wrong(
    asked: Asked,
    inputs: dict[str, npt.NDArray[np.generic]],
    request_: dict[str, object],
    status: int,
    message: str,
) -> None:
    asked.refused(asked.triton.infer(inputs, **request_), status, message)


def test_the_service_describes_itself(asked: Asked) -> None:
    content = asked.triton.ask("get_server_metadata").content
    assert content["name"] == "lgm-pose" and content["extensions"] == ["binary_tensor_data"]
    model = asked.triton.ask("get_model_metadata", "lgm-pose", "1").content
    assert model["versions"] == ["1"]
    inputs = {each["name"]: (each["datatype"], [int(n) for n in each["shape"]]) for each in model["inputs"]}
    outputs = {each["name"]: (each["datatype"], [int(n) for n in each["shape"]]) for each in model["outputs"]}
    assert inputs == {"image": ("BYTES", [1]), "pixels": ("UINT8", [1, -1, -1, 3])}
    assert outputs == {
        "boxes": ("FP32", [-1, 4]),
        "scores": ("FP32", [-1]),
        "keypoints": ("FP32", [-1, 17, 3]),
    }
    asked.refused(asked.triton.ask("get_model_metadata", "other"), 404, "no model 'other'")


def test_the_service_is_alive_and_ready(asked: Asked) -> None:
    assert asked.triton.ask("is_server_live").content == {"is": True}
    assert asked.triton.ask("is_server_ready").content == {"is": True}
    assert asked.triton.ask("is_model_ready", "lgm-pose").content == {"is": True}
    assert asked.triton.ask("is_model_ready", "other").content in ({"is": False}, {})


def test_json_carries_images_in_base64(service: Service, rest: RestClient, photo: bytes) -> None:
    triton = Triton("http", service.url.removeprefix("http://"))
    names = ["boxes", "scores", "keypoints"]
    reply = triton.infer({"image": image_of(base64.b64encode(photo))}, binary=False, wanted=names)
    triton.close()
    check(reply, rest.estimate(photo))


def test_json_carries_pixels_nested_or_flat(service: Service, pixels: Pixels) -> None:
    rgb = pixels[None, ::16, ::16, ::-1]
    answers = []
    for data in (rgb.tolist(), rgb.ravel().tolist()):
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": rgb.shape, "data": data}
        response = httpx.post(service.url + INFER, json={"inputs": [tensor]})
        assert response.status_code == 200, response.text
        answers.append(response.json()["outputs"])
    assert answers[0] == answers[1]
    assert [each["shape"] for each in answers[0]] == [[1, 4], [1], [1, 17, 3]]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 422),
        (b'{"inputs": [], "colour": 1}', {}, 422),
        (b'{"inputs": []}', {}, 422),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "15"}, 400),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "-1"}, 400),
        (b'{"inputs": []}more', {"Inference-Header-Content-Length": "14"}, 400),
        (b" " * (8 * 2**20) + b"{}", {}, 413),
        (b'{"inputs": [%s]}', {}, 422),
    ],
)
def test_bodies_that_are_not_requests_are_refused(
    service: Service, body: bytes, headers: dict[str, str], status: int
) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, [2], 300]}
    body = body.replace(b"%s", json.dumps(tensor).encode())
    response = httpx.post(service.url + INFER, content=body, headers=headers)
    assert response.status_code == status
    problem = response.json()
    assert problem["error"] == problem["detail"]


@pytest.mark.parametrize("data", [["!"], ["e"], [1], [None], [["a"], 1], [{}], []])
def test_data_that_is_not_base64_is_refused(service: Service, data: object) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": data}
    assert httpx.post(service.url + INFER, json={"inputs": [tensor]}).status_code == 422


def test_tensors_may_be_typed_over_grpc(service: Service, rest: RestClient, pixels: Pixels) -> None:
    cut = pixels[::8, ::8]
    request = pb.ModelInferRequest(model_name="lgm-pose")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=(1, *cut.shape))
    tensor.contents.uint_contents.extend(cut[..., ::-1].ravel().tolist())
    with grpc.insecure_channel(service.grpc) as channel:
        stub = openinference_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(request, timeout=60)
        tensor.contents.uint_contents[0] = 256
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request, timeout=60)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not response.raw_output_contents
    outputs = {each.name: np.reshape(each.contents.fp32_contents, each.shape) for each in response.outputs}
    check(
        Reply(outputs={name: array.astype(np.float32) for name, array in outputs.items()}),
        rest.estimate(encode(cut, ".png")),
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([b""], "not one element"),
        ([b"\x01\x00\x00"], "not one element"),
        ([b"\x09\x00\x00\x00image"], "not one element"),
        ([b"\x01\x00\x00\x00image"], "not one element"),
        ([b"\x00\x00\x00\x00", b""], "1 inputs have 2 raw contents"),
    ],
)
def test_raw_contents_that_are_not_an_image_are_refused(
    service: Service, raw: list[bytes], message: str
) -> None:
    request = pb.ModelInferRequest(model_name="lgm-pose", raw_input_contents=raw)
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    with grpc.insecure_channel(service.grpc) as channel:
        stub = openinference_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request, timeout=60)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in refusal.value.details()


def test_the_example_of_the_page_runs(service: Service) -> None:
    page = (ROOT / "docs" / "openinference.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "127.0.0.1:8000" in code
    code = code.replace("127.0.0.1:8000", service.url.removeprefix("http://"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 17, 3)\n"


def test_overload_is_the_same_for_every_protocol(launch: Launch, photo: bytes) -> None:
    service = launch(slow=True, max_images=1)
    with (
        httpx.Client(base_url=service.url, timeout=60) as http,
        grpc.insecure_channel(service.grpc) as channel,
    ):
        stub = openinference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name="lgm-pose")
        request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(photo)
        calls = [stub.ModelInfer.future(request, timeout=60) for _ in range(4)]
        codes = [call.code() for call in calls]
        assert {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED} == set(codes)
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
        tensor["data"] = [base64.b64encode(photo).decode()]
        assert http.post(INFER, json={"inputs": [tensor]}).status_code == 200
