"""`lgm-pose estimate` and `lgm-pose stream` start a service of their own and end it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.networks import save_networks
from tests.support.service import ROOT, Pixels, Service, encode


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    return save_networks(folder)


def start(*arguments: object, **settings: object) -> subprocess.Popen[str]:
    variables = {f"POSE_{name.upper()}": str(value) for name, value in settings.items()}
    # the marker finds processes that outlive the command
    marked = {"PYTHONPATH": str(ROOT / "client"), "TEST_LOCAL": str(os.getpid())}
    return subprocess.Popen(
        [sys.executable, "-m", "service", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **marked, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    process = start(*arguments, **settings)
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def survivors() -> list[psutil.Process]:
    """Processes that a command of this test started and left."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_LOCAL") == str(os.getpid()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_photos_are_estimated_without_a_running_service(weights: Path) -> None:
    photo = ROOT / "examples" / "astronaut.jpg"
    # the keys of the user's own service do not apply to this one
    done = run("estimate", photo, weights=weights, api_keys="secret")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["persons"]
    assert survivors() == []


def test_a_folder_is_streamed_without_a_running_service(
    weights: Path, tmp_path: Path, pixels: Pixels
) -> None:
    frames, answers = tmp_path / "frames", tmp_path / "answers.jsonl"
    frames.mkdir()
    for number in range(3):
        (frames / f"{number}.jpg").write_bytes(encode(pixels[::4, ::4]))
    done = run("stream", frames, "--policy", "all", "--json", answers, weights=weights)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["frame_id"] for line in answers.read_text().splitlines()] == [0, 1, 2]
    assert survivors() == []


def test_a_service_that_cannot_start_is_reported_in_one_line(tmp_path: Path) -> None:
    done = run("estimate", ROOT / "examples" / "astronaut.jpg", weights=tmp_path / "nowhere")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "detector.onnx: no such file" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("answers", [0, 1], ids=["at start-up", "at work"])
def test_a_signal_ends_the_service_too(weights: Path, number: signal.Signals, answers: int) -> None:
    # many photos, so that the command is still running when the signal arrives
    process = start("estimate", *[ROOT / "examples" / "astronaut.jpg"] * 2000, weights=weights)
    while len(survivors()) < 2:  # the command and its service
        assert process.poll() is None
    assert process.stdout is not None
    for _ in range(answers):
        process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert survivors() == []


def test_a_service_that_the_user_names_is_used(service: Service, pixels: Pixels, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encode(pixels[::4, ::4]))
    before = service.metric("pose_images_total")
    done = run("estimate", photo, f"--url={service.url}", weights=tmp_path / "nowhere")
    assert done.returncode == 0, done.stderr
    assert service.metric("pose_images_total") == before + 1


SIGNALLED = """
import os, signal, subprocess, sys
from service import local

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored

class Popen(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        os.kill(os.getpid(), {number})  # while the service is being started

subprocess.Popen = Popen
local.run_client("estimate", [{photo!r}])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_service_is_started_ends_it_too(weights: Path, number: signal.Signals) -> None:
    script = SIGNALLED.format(number=int(number), photo=str(ROOT / "examples" / "astronaut.jpg"))
    marked = {"PYTHONPATH": str(ROOT / "client"), "TEST_LOCAL": str(os.getpid())}
    env = {**os.environ, **marked, "POSE_WEIGHTS": str(weights)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, timeout=60, check=False
    )
    assert done.returncode in (128 + number, -number)
    assert survivors() == []
