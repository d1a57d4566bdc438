"""Images of cameras mounted on their side: `rotate` over every protocol."""

from contextlib import aclosing

import cv2
import httpx
import numpy as np
import pytest

from lgm_pose_client import Options, Policy, StreamConfig
from tests.api.test_openinference import Asked, image_of
from tests.api.test_openinference import asked as asked  # a fixture
from tests.core.test_image import with_orientation
from tests.support.clients import JPEG, Client, Refused
from tests.support.service import Pixels, Service, encode
from tests.support.streams import PROTOCOLS, stream

SPOT = (180, 290)  # x, y


@pytest.fixture(scope="module")
def upright() -> Pixels:
    """400 x 500, with a bright spot where the test network finds a person."""
    picture = np.full((500, 400, 3), 20, np.uint8)
    picture[280:300, 170:190] = 255
    return picture


def lying(upright: Pixels, rotate: int, suffix: str = ".jpg") -> bytes:
    """The image of a camera whose frames need a clockwise rotation by `rotate` degrees."""
    return encode(np.ascontiguousarray(np.rot90(upright, rotate // 90)), suffix)


def check(result: dict) -> None:  # type: ignore[type-arg]
    assert (result["width"], result["height"]) == (400, 500)
    keypoints = np.array(result["persons"][0]["keypoints"])
    assert np.abs(keypoints[:, :2] - SPOT).max() < 15


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_coordinates_are_those_of_the_turned_picture(client: Client, upright: Pixels, rotate: int) -> None:
    for suffix in (".jpg", ".png"):
        check(client.estimate(lying(upright, rotate, suffix), rotate=rotate))


def test_rotate_is_applied_after_the_exif_orientation(client: Client, upright: Pixels) -> None:
    by_exif = with_orientation(lying(upright, 90 + 180), 6)  # EXIF 6 turns by 90
    check(client.estimate(by_exif, rotate=180))


def test_the_drawn_picture_is_turned(service: Service, upright: Pixels) -> None:
    response = httpx.post(
        f"{service.url}/v1/poses",
        params={"rotate": 270},
        content=lying(upright, 270),
        headers={**JPEG, "accept": "image/jpeg"},
        timeout=60,
    )
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert drawn.shape == (500, 400, 3)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_frames_of_a_stream_are_turned(service: Service, upright: Pixels, protocol: str) -> None:
    config = StreamConfig(Options(rotate=90), Policy.ALL, tracking=True, detect_every=2)
    frames = [lying(upright, 90)] * 4
    async with aclosing(stream(service, protocol, frames, config)) as answers:
        seen = [answer async for answer in answers]
    assert len(seen) == 4
    for answer in seen:
        check(answer["poses"])


@pytest.mark.parametrize("name", ["image", "pixels"])
def test_the_open_inference_protocol_rotates_images(asked: Asked, upright: Pixels, name: str) -> None:
    turned = np.ascontiguousarray(np.rot90(upright, 1))
    given = image_of(encode(turned)) if name == "image" else turned[None]
    reply = asked.triton.infer({name: given}, parameters={"rotate": 90})
    assert np.abs(reply.outputs["keypoints"][0, :, :2] - SPOT).max() < 15


@pytest.mark.parametrize("rotate", [1, 45, 360])
def test_other_angles_are_refused(client: Client, photo: bytes, rotate: int) -> None:
    with pytest.raises(Refused, match=r"rotate|multiple|less than") as refused:
        client.estimate(photo, rotate=rotate)
    assert str(refused.value.status) in ("422", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize("rotate", [45, True, "90"])
def test_the_open_inference_protocol_refuses_other_angles(asked: Asked, photo: bytes, rotate: object) -> None:
    reply = asked.triton.infer({"image": image_of(photo)}, parameters={"rotate": rotate})
    asked.refused(reply, 422, "'rotate'")
