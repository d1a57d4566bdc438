"""Sources of streams: videos as phones write them, damaged ones, cameras that are lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from lgm_pose_client import Policy, sources
from lgm_pose_client.clock import RecordingClock
from lgm_pose_client.pictures import decode
from lgm_pose_client.sources import open_source
from tests.client.test_client import run
from tests.support.processes import prepared
from tests.support.rtsp import RtspCamera
from tests.support.service import ROOT, Launch, Pixels, Service, encode

CASES = ROOT.parent / "shared" / "cases" / "files"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="the recordings are not here")

# the top left quarter is red, the top right one green, the bottom left one blue, the last one grey
QUARTERS = np.zeros((128, 192, 3), np.uint8)
QUARTERS[:64, :96], QUARTERS[:64, 96:], QUARTERS[64:, :96] = (0, 0, 255), (0, 255, 0), (255, 0, 0)
QUARTERS[64:, 96:] = 128

# a, b, c, d of the display matrix with x' = a x + c y, y' = b x + d y, and how numpy turns the picture
MATRICES = {
    (1, 0, 0, 1): lambda picture: picture,
    (0, -1, 1, 0): lambda picture: np.rot90(picture, 1),
    (-1, 0, 0, -1): lambda picture: np.rot90(picture, 2),
    (0, 1, -1, 0): lambda picture: np.rot90(picture, 3),
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda picture: np.rot90(picture, 2).transpose(1, 0, 2),
}


def film(path: Path, pictures: list[Pixels], *, fps: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return path


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an MP4 (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8  # version 0
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_frames_are_upright_for_every_display_matrix(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = film(tmp_path / "film.mp4", [QUARTERS] * 3)
    with_matrix(path, matrix)
    expected = MATRICES[matrix](QUARTERS)
    frames = list(open_source(str(path)))
    assert len(frames) == 3
    for frame in frames:
        assert isinstance(frame.picture, bytes)
        pixels = np.asarray(decode(frame.picture))[..., ::-1].astype(int)
        assert pixels.shape == expected.shape
        assert np.abs(pixels - expected).mean() < 12


@needs_cases
def test_a_phone_s_video_is_upright_in_answers_and_in_the_annotated_video(
    service: Service, tmp_path: Path
) -> None:
    lines, out = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    source = CASES / "rotated-90.mp4"
    done = run("stream", source, "--address", service.grpc, "--json", lines, "--out", out)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {(each["poses"]["width"], each["poses"]["height"]) for each in answers} == {(360, 480)}
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(frames) == len(answers) == 10
    assert frames[0].shape == (480, 360, 3)


@needs_cases
def test_a_phone_s_video_shows_its_person(launch: Launch, tmp_path: Path) -> None:
    shipped = launch(weights=ROOT / "model" / "weights")
    lines = tmp_path / "out.jsonl"
    run("stream", CASES / "rotated-90.mp4", "--address", shipped.grpc, "--json", lines)
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert all(each["poses"]["persons"] for each in answers)


@needs_cases
def test_frames_of_a_damaged_video_that_can_be_decoded_are_answered(service: Service, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    done = run("stream", CASES / "damaged-frame.mp4", "--address", service.grpc, "--json", lines)
    assert done.returncode == 0, done.stderr
    assert "1 frames are damaged" in done.stderr
    assert len(lines.read_text().splitlines()) == 39


@needs_cases
@pytest.mark.parametrize(
    ("name", "length"), [("clock-starts-late.mkv", 4), ("clock-jumps.ts", 10), ("variable-rate.mp4", 30)]
)
def test_times_count_from_the_first_frame_and_over_jumps(name: str, length: float) -> None:
    times = [frame.timestamp or 0.0 for frame in open_source(str(CASES / name))]
    assert times[0] == 0
    assert times == sorted(times)
    assert 0 < times[-1] < length


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([5.0, 5.1, 5.3], [0, 0.1, 0.3]),
        ([5.0, 5.1, 99_999.0, 99_999.1], [0, 0.1, 0.14, 0.24]),
        ([5.0, 5.1, 0.0, 0.1], [0, 0.1, 0.14, 0.24]),
        ([None, None, None], [0, 0.04, 0.08]),
        ([0.0, 9.0, 18.0], [0, 9, 18]),
    ],
)
def test_the_clock_of_a_recording(given: list[float | None], expected: list[float]) -> None:
    clock = RecordingClock(0.04)
    assert [clock.tick(time) for time in given] == pytest.approx(expected)


def test_a_folder_is_answered_whole_by_default(launch: Launch, tmp_path: Path, small: bytes) -> None:
    service = launch(slow=True)
    for number in range(30):
        (tmp_path / f"{number:02}.jpg").write_bytes(small)
    assert open_source(str(tmp_path)).policy is Policy.ALL
    lines = tmp_path / "out.jsonl"
    done = run("stream", tmp_path, "--address", service.grpc, "--json", lines)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert answers[-1]["counts"] == {"received": 30, "poses": 30, "dropped": 0, "errors": 0}


@pytest.fixture
def camera(pixels: Pixels) -> Iterator[RtspCamera]:
    camera = RtspCamera([pixels[:192, :256]] * 20)
    yield camera
    camera.close()


# a test run in the background of a shell or by nohup ignores these signals, and its children would too
END_ON_SIGNALS = """
import signal
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command, under way."""
    return subprocess.Popen(
        prepared(END_ON_SIGNALS, "-m", "lgm_pose_client", *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers_of(lines: Path) -> list[dict[str, object]]:
    if not lines.exists():
        return []
    return [json.loads(line) for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_camera_that_ends_is_opened_again(service: Service, tmp_path: Path, camera: RtspCamera) -> None:
    """It serves its pictures to one viewer after the other; ids and times go on, and SIGTERM ends it."""
    lines, out = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    process = start("stream", camera.url, "--address", service.grpc, "--json", lines, "--out", out)
    wait_for(lambda: len(answers_of(lines)) > 45)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert f"{camera.url}: it ended; opening it again in 1 s (gap 1)" in stderr
    assert "(gap 2)" in stderr
    assert "Traceback" not in stderr
    answers = answers_of(lines)
    ids = [int(str(each["frame_id"])) for each in answers]
    assert ids == sorted({*ids})  # a busy machine drops frames before they are sent
    times = [each["time"] for each in answers]
    assert times == sorted(times)  # type: ignore[type-var]
    with av.open(str(out)) as container:
        assert len(list(container.decode(video=0))) > 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_closes_the_annotated_video(
    service: Service, tmp_path: Path, pixels: Pixels, number: signal.Signals
) -> None:
    source = film(tmp_path / "in.mp4", [pixels[:192, :256]] * 300)
    lines, out = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    process = start(
        *("stream", source, "--policy", "latest", "--address", service.grpc), "--json", lines, "--out", out
    )
    wait_for(lambda: out.exists() and out.stat().st_size > 0 and lines.exists())
    time.sleep(2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    with av.open(str(out)) as container:
        assert 0 < len(list(container.decode(video=0))) < 300


@pytest.mark.parametrize("ending", ["closed", "reset", "silent"])
def test_a_camera_that_is_lost_is_reported_and_opened_again(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(sources, "_TIMEOUT_S", 1.0)
    monkeypatch.setattr(sources, "_FIRST_PAUSE_S", 0.1)
    camera = RtspCamera([pixels[:192, :256]] * 12, ending)
    reports: list[str] = []
    source = open_source(camera.url, report=reports.append)
    frames = list(islice(source, 30))
    source.close()
    assert [frame.frame_id for frame in frames] == list(range(30))
    assert source.gaps >= 2
    assert all(line.startswith(f"{camera.url}: it ") for line in reports)
    assert len(reports) >= 2
    with (
        pytest.raises(ValueError, match="it was lost: no data for 1 s")
        if ending == "silent"
        else nullcontext()
    ):
        assert len(list(open_source(camera.url, once=True))) < 30
    camera.close()


def test_a_camera_that_stays_away_is_waited_for_with_growing_pauses(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FIRST_PAUSE_S", 0.1)
    camera = RtspCamera([pixels[:192, :256]] * 12)
    reports: list[str] = []

    def report(line: str) -> None:
        reports.append(line)
        if len(reports) == 1:
            camera.close()
        if len(reports) == 4:
            source.close()

    source = open_source(camera.url, report=report)
    assert len(list(source)) <= 12
    pauses = [float(line.split("again in ")[1].split(" s")[0]) for line in reports]
    assert pauses == [0.1, 0.1, 0.2, 0.4] or pauses == [0.1, 0.2, 0.4, 0.8]
    assert all("(gap 1)" in line for line in reports)
    assert "cannot be opened" in reports[-1]


def test_a_camera_once(service: Service, camera: RtspCamera) -> None:
    done = run("stream", camera.url, "--once", "--address", service.grpc)
    assert done.returncode == 0, done.stderr
    assert "gap" not in done.stderr


def test_a_video_keeps_the_times_of_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "uneven.mkv"
    expected = [0.0, 0.1, 0.5, 0.52, 3.0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=50)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_s in expected:
            frame = av.VideoFrame.from_ndarray(QUARTERS, format="bgr24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert [frame.timestamp for frame in open_source(str(path))] == pytest.approx(expected)


def test_a_video_file_behind_a_url_is_a_recording(tmp_path: Path) -> None:
    film(tmp_path / "film.mp4", [QUARTERS] * 5)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_port}/film.mp4")
        assert source.policy is Policy.ALL
        assert len(list(source)) == 5
        server.shutdown()


def test_suffixes_in_capitals_are_pictures(tmp_path: Path, pixels: Pixels) -> None:
    for name in ("A.JPG", "b.PNG", "c.Webp", "d.txt"):
        (tmp_path / name).write_bytes(encode(pixels, ".jpg"))
    assert len(list(open_source(str(tmp_path)))) == 3


def test_the_command_ends_when_its_terminal_is_closed_unless_nohup(service: Service, tmp_path: Path) -> None:
    """A process that ignores SIGHUP goes on doing so."""
    picture = tmp_path / "a.jpg"
    picture.write_bytes((ROOT / "examples" / "astronaut.jpg").read_bytes())
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from lgm_pose_client import __main__ as command;"
        f"os.kill(os.getpid(), signal.SIGHUP); command.main([{str(picture)!r}, '--url', {service.url!r}]);"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
