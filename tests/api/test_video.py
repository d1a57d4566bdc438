"""Video files: frames, limits, what is refused, callers that leave."""

import io
import struct
from collections.abc import Iterator

import av
import httpx
import numpy as np
import pytest

from service.core.image import decode
from service.errors import ImageTooLarge, InvalidVideo
from service.streaming.frames import StreamFrame
from service.streaming.video import open_video
from tests.api.test_lifecycle import until
from tests.support.service import Launch, Pixels, Service

MP4 = {"content-type": "video/mp4"}


def film(
    pixels: Pixels, frames: int = 12, *, kind: str = "mp4", codec: str = "h264", **options: str
) -> bytes:
    """A video of 10 frames a second in which the picture, 256 x 192, grows darker."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p"
        for number in range(frames):
            picture = (pixels[:192, :256] * (1 - number / 200)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.fixture(scope="module")
def mp4(pixels: Pixels) -> bytes:
    return film(pixels)


def read(data: bytes, *, max_seconds: float = 60, max_pixels: int = 10**6) -> list[StreamFrame]:
    return list(open_video(io.BytesIO(data), max_seconds=max_seconds, max_pixels=max_pixels))


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "h264"), ("matroska", "h264"), ("avi", "mpeg4"), ("mpegts", "h264")]
)
def test_frames_come_in_order_with_their_times_and_pixels(pixels: Pixels, kind: str, codec: str) -> None:
    frames = read(film(pixels, kind=kind, codec=codec))
    assert [frame.frame_id for frame in frames] == list(range(12))
    times = np.array([frame.timestamp for frame in frames], float)
    np.testing.assert_allclose(np.diff(times), 0.1, atol=0.002)
    first = decode(frames[0].picture)
    assert first.shape == (192, 256, 3)
    assert np.abs(first.astype(int) - pixels[:192, :256]).mean() < 8


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_film_taken_with_the_camera_turned_is_upright(mp4: bytes, turn: int) -> None:
    """The display matrix of the track header turns the picture by a quarter clockwise for each turn."""
    a, b, c, d = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turn]
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    start = mp4.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    turned = read(mp4[:start] + matrix + mp4[start + 36 :])
    plain = decode(read(mp4)[0].picture)
    np.testing.assert_array_equal(decode(turned[0].picture), np.rot90(plain, -turn))


def test_limits(mp4: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"longer than 1 s"):
        read(mp4, max_seconds=1)
    with pytest.raises(ImageTooLarge, match="256 x 192"):
        read(mp4, max_pixels=256 * 192 - 1)


def test_a_film_that_is_longer_than_its_header_says_is_ended(pixels: Pixels) -> None:
    data = film(pixels, kind="matroska", live="1")
    frames = open_video(io.BytesIO(data), max_seconds=1.0, max_pixels=10**6)
    taken = 0

    def take() -> Iterator[StreamFrame]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    with pytest.raises(ImageTooLarge):
        list(take())
    assert taken <= 11


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n%s\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense" * 100,
        PLAYLIST % b"file:///etc/passwd",
        PLAYLIST % b"http://127.0.0.1:9/x.ts",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
def test_what_is_no_film_or_names_other_files_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidVideo):
        read(data)


def lines(service: Service, data: bytes, **parameters: object) -> list[dict]:  # type: ignore[type-arg]
    response = httpx.post(
        f"{service.url}/v1/videos", content=data, params=parameters, headers=MP4, timeout=60
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [httpx.Response(200, content=line).json() for line in response.text.splitlines()]


def test_each_frame_is_answered(service: Service, mp4: bytes) -> None:
    answers = lines(service, mp4, tracking="true", detect_every=4)
    assert [each["frame_id"] for each in answers] == list(range(12))
    assert [each["counts"]["poses"] for each in answers] == list(range(1, 13))
    ids = {person["track_id"] for each in answers for person in each["poses"]["persons"]}
    assert ids == {1}
    assert service.metric("pose_stream_frames_total", outcome="poses", policy="all") >= 12


def test_a_film_that_ends_too_soon_ends_with_an_error_line(service: Service, mp4: bytes) -> None:
    start = mp4.index(b"mdat") + 4
    damaged = mp4[:start] + b"\0" * 600 + mp4[start + 600 :]
    response = httpx.post(f"{service.url}/v1/videos", content=damaged, headers=MP4, timeout=60)
    if response.status_code == 200:
        assert httpx.Response(200, content=response.text.splitlines()[-1]).json()
    else:
        assert response.json()["code"] == "invalid_video"


@pytest.mark.parametrize(
    ("body", "headers", "query", "status", "code"),
    [
        (b"nonsense", MP4, "", 400, "invalid_video"),
        (b"x", {"content-type": "image/jpeg"}, "", 415, "unsupported_media_type"),
        (b"x", MP4, "?detect_every=2", 422, "invalid_argument"),
        (b"x", MP4, "?detect_every=0&tracking=true", 422, "invalid_argument"),
        (b"x", MP4, "?policy=latest", 422, "invalid_argument"),
    ],
)
def test_what_is_refused(
    service: Service, body: bytes, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    response = httpx.post(f"{service.url}/v1/videos{query}", content=body, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code


def test_limits_of_the_service(launch: Launch, mp4: bytes) -> None:
    service = launch(max_video_bytes=2000, max_video_s=1, max_streams=0)
    response = httpx.post(f"{service.url}/v1/videos", content=mp4, headers=MP4)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    service = launch(max_video_s=1, max_streams=0)
    response = httpx.post(f"{service.url}/v1/videos", content=mp4, headers=MP4)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    service = launch(max_streams=0)
    response = httpx.post(f"{service.url}/v1/videos", content=mp4, headers=MP4)
    assert (response.status_code, response.json()["code"]) == (429, "overloaded")


async def test_a_caller_that_leaves_ends_the_work(launch: Launch, pixels: Pixels) -> None:
    service = launch(slow=True)
    film_of_a_minute = film(pixels, 600)
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"{service.url}/v1/videos", content=film_of_a_minute, headers=MP4) as response,
    ):
        async for line in response.aiter_lines():
            assert '"frame_id":0' in line
            break
    await until(lambda: service.metric("pose_streams_open", api="video") == 0)
    await until(lambda: service.metric("pose_in_flight", api="rest_video") == 0)
    assert service.metric("pose_stream_frames_total", outcome="poses", policy="all") < 100
