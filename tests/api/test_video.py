"""Video files: frames, limits, refusals, disconnects."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

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
    pixels: Pixels,
    frames: int = 12,
    *,
    kind: str = "mp4",
    codec: str = "h264",
    ticks: Sequence[int] | None = None,
    **options: str,
) -> bytes:
    """A video in which the picture, 256 x 192, grows darker.

    It has 10 frames a second, or frames at the given ticks, of 0.1 s each.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film"  # not in memory: FFmpeg reads it again for `faststart`
        _write(path, pixels, range(frames) if ticks is None else ticks, kind, codec, options)
        return path.read_bytes()


def _write(
    path: Path, pixels: Pixels, ticks: Sequence[int], kind: str, codec: str, options: dict[str, str]
) -> None:
    with av.open(path, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p"
        stream.codec_context.gop_size = 12
        for number, tick in enumerate(ticks):
            picture = (pixels[:192, :256] * (1 - number / 200)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = tick, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def with_damage(data: bytes, packet: int, share: float = 0.5) -> bytes:
    """The video with zeros for a share of a packet."""
    with av.open(io.BytesIO(data)) as container:
        found = [each for each in container.demux(video=0) if each.size][packet]
    assert found.pos is not None
    start, length = found.pos + 8, int(found.size * share)
    return data[:start] + bytes(length) + data[start + length :]


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


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_film_taken_with_the_camera_turned_is_upright(mp4: bytes, turn: int, mirror: bool) -> None:
    """The display matrix of the track header rotates the image by 90 degrees clockwise per turn.

    A front camera may mirror it from left to right before.
    """
    a, b, c, d = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turn]
    if mirror:
        a, b = -a, -b
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    start = mp4.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    turned = read(mp4[:start] + matrix + mp4[start + 36 :])
    plain = decode(read(mp4)[0].picture)
    if mirror:
        plain = plain[:, ::-1]
    np.testing.assert_array_equal(decode(turned[0].picture), np.rot90(plain, -turn))


def test_limits(mp4: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"longer than 1 s"):
        read(mp4, max_seconds=1)
    with pytest.raises(ImageTooLarge, match="256 x 192"):
        read(mp4, max_pixels=256 * 192 - 1)


def test_a_film_that_is_longer_than_its_header_says_is_refused(pixels: Pixels) -> None:
    data = film(pixels, kind="matroska", live="1")
    with pytest.raises(ImageTooLarge):
        open_video(io.BytesIO(data), max_seconds=1.0, max_pixels=10**6)
    assert len(read(data, max_seconds=1.1)) == 12


def times(frames: Sequence[StreamFrame]) -> list[float]:
    return [round(frame.timestamp or 0, 3) for frame in frames]


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts"])
def test_times_are_those_at_which_frames_are_shown(pixels: Pixels, kind: str) -> None:
    ticks = [0, 3, 6, 7, 8, 20, 21, 29]
    assert times(read(film(pixels, kind=kind, ticks=ticks))) == [tick / 10 for tick in ticks]


@pytest.mark.parametrize("kind", ["matroska", "mpegts"])
def test_the_length_counts_from_the_first_frame(pixels: Pixels, kind: str) -> None:
    """Recorders write the time of day, or the seconds since they were switched on."""
    late = film(pixels, kind=kind, ticks=range(170_000, 170_012))
    assert times(read(late, max_seconds=1.2)) == [number / 10 for number in range(12)]
    with pytest.raises(ImageTooLarge):
        read(late, max_seconds=1)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_jump_of_the_clock_counts_as_one_frame(pixels: Pixels, ahead: bool) -> None:
    """Two recordings in one file, as recorders write them after an interruption."""
    parts = [film(pixels, kind="mpegts", ticks=range(start, start + 12)) for start in (0, 200_000)]
    frames = read(b"".join(parts if ahead else parts[::-1]), max_seconds=2.4)
    assert times(frames) == [number / 10 for number in range(24)]


def test_a_frame_every_minute_is_no_jump(pixels: Pixels) -> None:
    sparse = film(pixels, kind="matroska", ticks=range(0, 6000, 600))
    assert times(read(sparse, max_seconds=600)) == [60.0 * number for number in range(10)]


@pytest.mark.parametrize(("packet", "lost"), [(20, 1), (0, 12)])
def test_damaged_frames_are_left_out_and_counted(pixels: Pixels, packet: int, lost: int) -> None:
    """Without its key frame, the frames up to the next one cannot be decoded."""
    damaged = with_damage(film(pixels, 40), packet)
    video = open_video(io.BytesIO(damaged), max_seconds=60, max_pixels=10**6)
    frames = list(video)
    assert [frame.frame_id for frame in frames] == list(range(40 - lost))
    assert video.lost == lost


def test_a_film_that_breaks_off_gives_what_it_has(pixels: Pixels) -> None:
    whole = film(pixels, 40, movflags="faststart")
    video = open_video(io.BytesIO(whole[: len(whole) * 2 // 3]), max_seconds=60, max_pixels=10**6)
    taken = len(list(video))
    assert 10 < taken < 40
    assert video.lost == 40 - taken


def test_a_film_with_only_damaged_frames_is_refused(pixels: Pixels) -> None:
    data = film(pixels)
    for packet in range(12):
        data = with_damage(data, packet)
    with pytest.raises(InvalidVideo, match="no frame"):
        read(data)


def test_a_film_that_cannot_be_read_on_is_refused(pixels: Pixels) -> None:
    with pytest.raises(InvalidVideo, match=r"damaged after 0\.0 s"):
        read(with_damage(film(pixels, kind="flv", codec="flv1"), 0))


@pytest.mark.parametrize("damage", [False, True])
def test_more_packets_than_the_longest_video_has_are_refused_before_they_are_decoded(
    pixels: Pixels, damage: bool
) -> None:
    """However short they say they are, and whether or not they can be decoded."""
    data = film(pixels, kind="matroska", ticks=range(240 * 2))
    if damage:
        data = with_damage(data, 0, 0.99)
    assert len(read(data, max_seconds=60)) == (480 if not damage else 468)
    with pytest.raises(ImageTooLarge):
        open_video(io.BytesIO(data), max_seconds=47, max_pixels=10**6)


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
def test_files_that_are_not_videos_or_name_other_files_are_refused(data: bytes) -> None:
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
    *answers, end = lines(service, mp4, tracking="true", detect_every=4)
    assert [each["frame_id"] for each in answers] == list(range(12))
    assert [each["counts"]["poses"] for each in answers] == list(range(1, 13))
    assert [each["time"] for each in answers] == pytest.approx([number / 10 for number in range(12)])
    assert end == {"end": {"counts": answers[-1]["counts"], "lost": 0}}
    ids = {person["track_id"] for each in answers for person in each["poses"]["persons"]}
    assert ids == {1}
    assert service.metric("pose_stream_frames_total", outcome="poses", policy="all") >= 12


def test_the_last_line_counts_the_lost_frames(service: Service, pixels: Pixels) -> None:
    *answers, end = lines(service, with_damage(film(pixels, 40), 20))
    assert len(answers) == 39
    assert end["end"]["lost"] == 1
    assert end["end"]["counts"]["poses"] == 39


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
    service = launch(max_video_s=1)
    response = httpx.post(f"{service.url}/v1/videos", content=mp4, headers=MP4)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    service = launch(max_streams=0)
    response = httpx.post(f"{service.url}/v1/videos", content=mp4, headers=MP4)
    assert (response.status_code, response.json()["code"]) == (429, "overloaded")


async def test_work_ends_when_the_client_disconnects(launch: Launch, pixels: Pixels) -> None:
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
