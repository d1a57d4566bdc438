"""Frames that show the same as an earlier one, with and without a service."""

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import cv2
import numpy as np
import pytest

import lgm_pose_client
from lgm_pose_client import HttpClient, Policy, StreamConfig
from service.streaming import frames
from service.streaming.frames import Answer, Failed
from service.streaming.scene import Scene, view_of
from service.types import Poses, TrackedPerson
from tests.api.test_video import film
from tests.streaming.test_tracking import person
from tests.support.rig import Camera, Rig, frame
from tests.support.service import Pixels, Service, encode
from tests.support.streams import PROTOCOLS, stream

SKIP = frames.StreamConfig(policy=frames.Policy.ALL, skip_unchanged=True)
PERSONS = (person(100),)


def scene_of(image: Pixels) -> Scene:
    scene = Scene()
    scene.keep(view_of(image), PERSONS, 0.0)
    return scene


def noisy(image: Pixels, seed: int) -> Pixels:
    """The image as a camera sends it: with noise of a standard deviation of 4, as a JPEG."""
    noise = np.random.default_rng(seed).normal(0, 4, image.shape)
    seen = np.clip(image + noise, 0, 255).astype(np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode(seen, ".jpg"), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(decoded, np.uint8)


def moved(image: Pixels, pixels: float) -> Pixels:
    """The image with its middle third moved to the right."""
    height, width = image.shape[:2]
    part = image[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    shift = np.array([[1, 0, pixels], [0, 1, 0]], np.float64)
    size = part.shape[1], part.shape[0]
    result = image.copy()
    result[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = cv2.warpAffine(
        part, shift, size, borderMode=cv2.BORDER_REPLICATE
    )
    return result


def test_noise_of_a_camera_is_no_change_and_a_small_movement_is(pixels: Pixels) -> None:
    scene = scene_of(noisy(pixels, 1))
    assert scene.persons(view_of(noisy(pixels, 2)), 1.0) == PERSONS
    assert scene.persons(view_of(moved(pixels, 2)), 1.0) is None


def test_a_frame_of_another_size_is_a_change(pixels: Pixels) -> None:
    scene = scene_of(pixels)
    assert scene.persons(view_of(pixels[:-100]), 1.0) is None
    assert scene.persons(view_of(pixels[:20, :30]), 1.0) is None


def test_persons_are_kept_for_ten_seconds(pixels: Pixels) -> None:
    scene, view = scene_of(pixels), view_of(pixels)
    assert scene.persons(view, 9.9) == PERSONS
    assert scene.persons(view, 10.1) is None
    assert Scene().persons(view, 0.0) is None


async def each_after_the_last(rig: Rig, config: frames.StreamConfig, levels: Sequence[int]) -> list[Answer]:
    """The answers to frames of these brightnesses, each sent after the answer to the last one."""
    camera, answers = Camera(), []
    rig.network.go.release(len(levels))
    camera.send(levels[0])
    async with aclosing(rig.stream(config).answers(aiter(camera))) as stream:
        for following in [*levels[1:], None]:
            answers.append(await anext(stream))
            camera.end() if following is None else camera.send(following)
    return answers


def persons_of(answer: Answer) -> tuple[Any, ...]:
    assert isinstance(answer.outcome, Poses)
    return answer.outcome.persons


async def test_the_networks_run_only_on_changed_frames(rig: Rig) -> None:
    """A slow change adds up, because frames are compared with the last one that the networks saw."""
    answers = await each_after_the_last(rig, SKIP, [100, 100, 105, 108, 110, 110, 0, 3, 100])
    assert rig.network.batches == [[100], [110], [0], [100]]
    seen = [persons_of(answer) for answer in answers]
    assert seen[0] == seen[1] == seen[2] == seen[3] == (person(100),)
    assert seen[4] == seen[5] == (person(110),)
    assert seen[6] == seen[7] == ()
    for answer, ran in zip(answers, [True, False, False, False, True, False, True, False, True], strict=True):
        assert isinstance(answer.outcome, Poses)
        assert (answer.outcome.timings.pose == answer.outcome.timings.detect == 0) or ran


async def test_unchanged_frames_are_not_skipped_unless_asked(rig: Rig) -> None:
    await each_after_the_last(rig, frames.StreamConfig(policy=frames.Policy.ALL), [100, 100, 100])
    assert rig.network.batches == [[100]] * 3


async def test_frames_are_compared_with_the_last_detection(rig: Rig) -> None:
    """A frame without detection may have missed a new person."""
    config = frames.StreamConfig(policy=frames.Policy.ALL, tracking=True, detect_every=3, skip_unchanged=True)
    answers = await each_after_the_last(rig, config, [100, 115, 115, 115, 115])
    assert rig.network.batches == [[100], [115], [115], [115]]
    assert [each is None for each in rig.network.boxes] == [True, False, False, True]
    ids = [
        each.track_id for answer in answers for each in persons_of(answer) if isinstance(each, TrackedPerson)
    ]
    assert ids == [1] * 5


async def test_an_unchanged_frame_with_an_invalid_time_fails(rig: Rig) -> None:
    rig.network.go.release(2)

    async def camera() -> AsyncIterator[frames.StreamFrame]:
        yield frame(100, timestamp=0.0)
        yield frame(100, timestamp=float("nan"))

    answers = [answer async for answer in rig.stream(SKIP).answers(camera())]
    assert isinstance(answers[1].outcome, Failed)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_still_camera_gets_its_persons_without_the_networks(
    service: Service, pixels: Pixels, protocol: str
) -> None:
    pictures = [encode(noisy(pixels, seed), ".jpg") for seed in range(10)]
    config = StreamConfig(policy=Policy.ALL, skip_unchanged=True)
    async with aclosing(stream(service, protocol, pictures, config)) as answers:
        found = [answer["poses"] async for answer in answers]
    skipped = [each for each in found if each["timings"]["detect"] == each["timings"]["pose"] == 0]
    assert len(skipped) >= 4  # those that arrive before the first answer are not compared with it
    assert all(each["persons"] for each in found)
    assert {each["width"] for each in found} == {pixels.shape[1]}


def test_a_video_that_hardly_changes_gets_persons_without_the_networks(
    service: Service, pixels: Pixels
) -> None:
    video = film(pixels)  # each frame is half a percent darker
    with HttpClient(service.url) as http:
        for skip in (False, True):
            config = StreamConfig(policy=Policy.ALL, skip_unchanged=skip)
            found = [answer.outcome for answer in http.estimate_video(io.BytesIO(video), config)]
            assert all(isinstance(each, lgm_pose_client.Poses) and each.persons for each in found)
            ran = [isinstance(each, lgm_pose_client.Poses) and each.timings.detect > 0 for each in found]
            assert ran.count(False) >= 3 if skip else all(ran)
