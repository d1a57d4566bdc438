"""Two thousand malformed images between valid ones, over both protocols."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import grpc
import httpx
import pytest

from service.wire.pb import pose_pb2
from tests.core.test_image import png_of_zeros, with_size
from tests.support.clients import JPEG, GrpcClient, RestClient
from tests.support.service import Launch, Pixels, Service, encode

COUNT = 2000
_FORMATS = ("png", "webp", "avif", "bmp", "gif", "tiff")
REFUSALS = {400, 413, 415, 422}
WRONG_TYPES = (
    b"GIF89a", b"BM", b"%PDF-1.7\n", b"PK\x03\x04", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"II*\0",
    b"\0\0\1\0", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8 ", b"RIFF\xff\0\0\0WEBPVP8L",
    b"RIFF\xff\0\0\0WEBPVP8X", b"", b"\0", b"{}", b"true",
)  # fmt: skip


def malformed(good: list[bytes]) -> Iterator[bytes]:
    """COUNT inputs derived from valid images, the same in each run."""
    rng = random.Random(1)
    bombs = [png_of_zeros(side, side) for side in (10_000, 20_000, 30_000, 32_766)]
    bombs += [png_of_zeros(32_766, 3), png_of_zeros(65_535, 600)]
    yield from bombs * 5
    for side in range(10_000, 65_536, 1_000):
        yield with_size(good[0], side, side)
        yield with_size(good[0], side, 1)
    for image in good:
        yield from (image[: len(image) * share // 100] for share in range(100))
    for head in WRONG_TYPES:
        yield from (head + rng.randbytes(rng.randrange(2000)) for _ in range(20))
    left = COUNT - 30 - 2 * 56 - 100 * len(good) - 20 * len(WRONG_TYPES)
    for _ in range(left):
        yield flipped(rng.choice(good), rng)


def flipped(image: bytes, rng: random.Random) -> bytes:
    """The image with some bytes changed, half of the time in its headers."""
    data = bytearray(image)
    end = 700 if rng.random() < 0.5 else len(data)
    for _ in range(rng.randrange(1, 12)):
        data[rng.randrange(min(end, len(data)))] = rng.randrange(256)
    return bytes(data)


def memory(service: Service, field: str) -> int:
    """VmRSS or VmHWM in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.fixture(scope="module")
def good(pixels: Pixels) -> list[bytes]:
    small = cv2.resize(pixels, (160, 160), interpolation=cv2.INTER_AREA)
    progressive = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return [encode(small, ".jpg"), progressive, *(encode(small, f".{name}") for name in _FORMATS)]


def ask_rest(client: RestClient, image: bytes) -> int:
    """The status over REST; fails unless the answer is persons or valid problem details."""
    response = client.http.post("/v1/poses", content=image, headers=JPEG)
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code
    return response.status_code


def ask_grpc(client: GrpcClient, image: bytes) -> grpc.StatusCode:
    """The status over gRPC."""
    try:
        client.stub.Estimate(pose_pb2.EstimateRequest(image=image), timeout=60)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.timeout(600)
def test_malformed_images_do_not_affect_other_requests(launch: Launch, good: list[bytes]) -> None:
    service = launch()
    rest, rpc = RestClient(service), GrpcClient(service)
    inputs = list(malformed(good))
    assert len(inputs) == COUNT
    expected = [rest.estimate(image)["persons"] for image in good]
    rest_codes: Counter[int] = Counter()
    grpc_codes: Counter[grpc.StatusCode] = Counter()
    resident = 0
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, COUNT, 100):
            part = inputs[start : start + 100]
            rest_answers = pool.map(lambda image: ask_rest(rest, image), part)
            grpc_answers = pool.map(lambda image: ask_grpc(rpc, image), part)
            between = list(pool.map(lambda image: rest.estimate(image)["persons"], good))
            assert between == expected
            rest_codes.update(rest_answers)
            grpc_codes.update(grpc_answers)
            resident = resident or memory(service, "VmRSS")
    assert rest_codes.keys() <= {200, *REFUSALS}
    assert grpc_codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
    assert rest_codes[200] == grpc_codes[grpc.StatusCode.OK]
    assert sum(rest_codes[code] for code in REFUSALS) > COUNT / 3
    assert memory(service, "VmHWM") < resident + 64 * 2**20
    assert not [line for line in service.log if line["level"] == "error"]
    rest.close()
    rpc.close()
    service.terminate()
    assert service.wait() == 0


def test_malformed_forms_are_refused(service: Service, photo: bytes) -> None:
    request = httpx.Request("POST", service.url, files={"image": ("a.jpg", photo)})
    body, headers = request.read(), {"content-type": request.headers["content-type"]}
    rng = random.Random(2)
    cuts = [body[: rng.randrange(200)] for _ in range(50)]
    damaged = [flipped(body[:300], rng) + body[300:] for _ in range(50)]
    client = RestClient(service)
    codes = Counter(
        client.http.post("/v1/poses", content=each, headers=headers).status_code for each in cuts + damaged
    )
    assert codes.keys() <= {200, *REFUSALS}
    assert codes[400] + codes[422] >= 50
    assert client.estimate(photo)["persons"]
    client.close()
