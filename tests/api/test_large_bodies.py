"""Bodies of several blocks give the same answers as small ones, in every protocol."""

import numpy as np
import pytest
import websockets

from service.api.http.blocks import BLOCK, Blocks
from tests.api.test_openinference import image_of
from tests.api.triton import Triton
from tests.support.clients import JPEG, GrpcClient, RestClient, answer
from tests.support.hostile_requests import CONFIGS
from tests.support.service import Service
from tests.support.streams import PROTOCOLS, stream, websocket_url

SIZE = 3 * BLOCK + 12_345


@pytest.fixture(scope="module")
def padded(photo: bytes) -> bytes:
    """A photo with zeros after its end."""
    return photo.ljust(SIZE, b"\0")


def test_blocks_keep_the_bytes_and_their_order() -> None:
    data = np.random.default_rng(0).bytes(SIZE)
    chunks = [data[start : start + 65_536] for start in range(0, SIZE, 65_536)]
    blocks = Blocks()
    for chunk in chunks:
        assert blocks.write(chunk) == len(chunk)
    windows = [*blocks.windows(10_000)]
    assert b"".join(windows) == data
    assert max(map(len, windows)) == 10_000
    assert blocks.size == SIZE
    assert blocks.take() == data
    assert (blocks.size, blocks.take()) == (0, b"")


def test_a_large_image_has_the_same_persons(
    service: Service, rest: RestClient, rpc: GrpcClient, photo: bytes, padded: bytes
) -> None:
    expected = rest.estimate(photo)["persons"]
    assert expected
    assert rest.estimate(padded)["persons"] == expected
    assert rpc.estimate(padded)["persons"] == rpc.estimate(photo)["persons"] != []
    files = [("image", ("a.jpg", padded)), ("image", ("b.jpg", photo))]
    results = answer(rest.http.post("/v1/poses", files=files))["results"]
    assert [each["persons"] for each in results] == [expected, expected]
    without_length = rest.http.post("/v1/poses", content=iter([padded[:9], padded[9:]]), headers=JPEG)
    assert answer(without_length)["results"][0]["persons"] == expected


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_large_tensor_has_the_same_persons(
    service: Service, protocol: str, photo: bytes, padded: bytes
) -> None:
    address = service.url.removeprefix("http://") if protocol == "http" else service.grpc
    triton = Triton(protocol, address)
    small, large = (triton.infer({"image": image_of(image)}) for image in (photo, padded))
    triton.close()
    assert small.outputs["boxes"].size
    for name, array in small.outputs.items():
        np.testing.assert_array_equal(large.outputs[name], array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_large_frame_has_the_same_persons(
    service: Service, protocol: str, photo: bytes, padded: bytes
) -> None:
    small, large = [each async for each in stream(service, protocol, [photo, padded])]
    assert small["poses"]["persons"]
    assert large["poses"]["persons"] == small["poses"]["persons"]


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_long_config_of_a_stream_is_refused_unparsed(service: Service, name: str) -> None:
    async with websockets.connect(websocket_url(service)) as socket:
        await socket.send(CONFIGS[name](2**13))
        assert "longer than 4096 characters" in str(await socket.recv())
