"""The worker without a server: a child that dies, hangs or is orphaned, and reloads of networks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from service.errors import ArtefactError, WorkerLost
from service.inference.child import ChildPipeline
from service.inference.pipeline import open_pipeline
from service.inference.reloadable import AnyPipeline, ReloadablePipeline
from service.inference.runtime import Files
from service.types import Boxes, InferenceInput, InferenceResult, Options
from tests.support.networks import save_networks
from tests.support.service import ROOT, Pixels


def open_child(folder: Path, timeout_s: float = 60) -> ChildPipeline:
    return ChildPipeline(Files.of(folder), threads=1, runtime="onnx", timeout_s=timeout_s)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_networks(tmp_path / "weights")


@pytest.fixture
def child(folder: Path) -> Iterator[ChildPipeline]:
    child = open_child(folder)
    yield child
    child.close()


@pytest.fixture
def frames(pixels: Pixels) -> list[InferenceInput]:
    return [InferenceInput(pixels, Options()), InferenceInput(pixels[:300, ::2], Options(max_persons=1))]


def test_a_child_gives_the_results_of_the_pipeline(
    child: ChildPipeline, folder: Path, frames: list[InferenceInput]
) -> None:
    here = open_pipeline(folder, threads=1, runtime="onnx")
    boxes = Boxes(np.array([[10, 20, 200, 300]], np.float32), np.ones(1, np.float32))
    for given in (frames, [InferenceInput(frames[0].image, Options(), boxes)]):
        persons = [each.persons for each in here.run(given)]
        assert [each.persons for each in child.run(given)] == persons != []
    assert child.models == here.models


def test_the_error_of_a_batch_is_returned_and_the_child_keeps_running(
    child: ChildPipeline, frames: list[InferenceInput]
) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)^Traceback .*topdown\.py"):
        child.run([InferenceInput(frames[0].image[:0], Options())])
    assert child.alive()
    assert child.run(frames)[0].persons


def test_a_killed_child_fails_batches_until_it_is_restarted(
    child: ChildPipeline, frames: list[InferenceInput]
) -> None:
    before = child.run(frames)
    os.kill(child._child.process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        child.run(frames)
    assert not child.alive()
    child.restart()
    assert child.alive()
    assert [each.persons for each in child.run(frames)] == [each.persons for each in before]


def test_a_child_that_hangs_is_killed(folder: Path, frames: list[InferenceInput]) -> None:
    child = open_child(folder, timeout_s=1)
    os.kill(child._child.process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerLost):
        child.run(frames)
    assert not child.alive()
    child.close()


def test_a_child_that_ends_while_it_is_asked_is_lost(
    child: ChildPipeline, frames: list[InferenceInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    send, closed = socket.send_fds, []

    def send_to_the_dead(end: socket.socket, data: list[bytes], files: list[int]) -> int:
        os.kill(child._child.process.pid, signal.SIGKILL)
        child._child._reader.join(1)  # it sees the end, and waits for this sender
        closed.append(end.fileno() == -1)
        return send(end, data, files)

    monkeypatch.setattr(socket, "send_fds", send_to_the_dead)
    with pytest.raises(WorkerLost):
        child.run(frames)
    assert closed == [False]


def test_a_signal_to_the_process_group_lets_the_batch_finish(
    child: ChildPipeline, frames: list[InferenceInput]
) -> None:
    assert os.getpgid(child._child.process.pid) != os.getpgrp()
    child.run(frames)  # it has long begun
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child._child.process.pid, number)
    assert child.run(frames)[0].persons


def test_a_restart_uses_the_loaded_networks_not_the_files(
    child: ChildPipeline, folder: Path, frames: list[InferenceInput]
) -> None:
    shutil.rmtree(folder)
    os.kill(child._child.process.pid, signal.SIGKILL)
    child.restart()
    assert child.run(frames)[0].persons


def test_a_child_ends_when_its_parent_is_killed(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.inference.test_reloadable import open_child;"
        "child = open_child(Path(sys.argv[1])); print(child._child.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        orphan = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    poll = threading.Event()
    for _ in range(600):
        try:
            signal.pidfd_send_signal(orphan, 0)  # type: ignore[arg-type]
        except ProcessLookupError:
            break
        poll.wait(0.1)
    else:
        pytest.fail("the child lives on")
    os.close(orphan)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_valid_new_networks_replace_the_old_ones(
    kind: str, folder: Path, frames: list[InferenceInput], tmp_path: Path
) -> None:
    def open_() -> AnyPipeline:
        return open_child(folder) if kind == "process" else open_pipeline(folder, threads=1, runtime="onnx")

    worker = ReloadablePipeline(open_)
    answer = worker.run(frames)[0].persons
    refused = _reloads("refused")
    for damage in BAD:
        _spoil(folder, damage, tmp_path / "other")
        worker.reload()
        assert worker.models().pose.version == "0", damage
        assert worker.run(frames)[0].persons == answer
        save_networks(folder)
    assert _reloads("refused") == refused + len(BAD)
    for version in ("1", "2"):
        save_networks(folder, version=version)
        worker.reload()
        assert worker.models().pose.version == worker.models().detector.version == version
        assert worker.run(frames)[0].persons == answer
        labels = {"task": "pose", "name": "tiny-pose", "version": version, "commit": "0" * 40}
        labels["runtime"], labels["precision"] = "onnxruntime", "float32"
        assert REGISTRY.get_sample_value("pose_model_info", labels) == 1
    worker.restart()
    assert worker.models().pose.version == "2"
    assert worker.run(frames)[0].persons == answer
    worker.close()


def test_a_batch_during_a_reload_runs_on_the_new_networks(
    folder: Path, frames: list[InferenceInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ReloadablePipeline(lambda: open_child(folder))
    answer = worker.run(frames)[0].persons
    old = worker._pipeline
    run = old.run

    def late(frames: list[InferenceInput], *, alone: bool) -> list[InferenceResult]:
        worker.reload()
        return run(frames, alone=alone)

    monkeypatch.setattr(old, "run", late)
    assert worker.run(frames)[0].persons == answer
    assert worker._pipeline is not old
    worker.close()


def test_a_replaced_pipeline_that_has_ended_is_no_loss(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ReloadablePipeline(lambda: open_child(folder))
    old = worker._pipeline
    alive = old.alive

    def late() -> bool:
        worker.reload()
        return alive()

    monkeypatch.setattr(old, "alive", late)
    assert worker.alive()
    assert worker._pipeline is not old
    assert not alive()
    worker.close()


def test_calls_at_the_same_time_share_a_child_and_a_reload_waits_for_them(
    folder: Path, pixels: Pixels
) -> None:
    save_networks(folder, slow=True)
    worker = ReloadablePipeline(
        lambda: ChildPipeline(Files.of(folder), threads=4, runtime="onnx", timeout_s=60)
    )
    old = worker._pipeline
    sizes = (100, 200, 300, 400)
    with ThreadPoolExecutor(5) as pool:
        frames = [InferenceInput(pixels[:size], Options()) for size in sizes]
        runs = [pool.submit(worker.run, [frame], alone=False) for frame in frames]
        while len(old._child._asked) < 4:  # type: ignore[attr-defined]
            pass
        pool.submit(worker.reload).result(60)
        answers = [run.result(60) for run in runs]
    assert [answer.persons[0].bbox[3] for (answer,) in answers] == [*sizes]
    assert worker._pipeline is not old
    worker.close()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_invalid_networks_are_refused_at_start_up(kind: str, folder: Path, tmp_path: Path) -> None:
    _spoil(folder, "not finite", tmp_path / "other")
    with pytest.raises(ArtefactError, match=rf"{folder}/pose\.onnx: its outputs are not finite"):
        open_child(folder) if kind == "process" else open_pipeline(folder, threads=1, runtime="onnx")


BAD = ("missing", "torn", "text", "swapped", "not finite", "format")


def _spoil(folder: Path, damage: str, other: Path) -> None:
    pose, detector = folder / "pose.onnx", folder / "detector.onnx"
    if damage == "missing":
        detector.unlink()
    elif damage == "torn":
        pose.write_bytes(pose.read_bytes()[: pose.stat().st_size // 2])
    elif damage == "text":
        pose.write_text("not a network")
    elif damage == "swapped":
        shutil.copy(detector, pose)
    elif damage == "not finite":
        shutil.copy(save_networks(other, not_finite=True) / "pose.onnx", pose)
    else:
        save_networks(folder, format="2")


def _reloads(outcome: str) -> float:
    return REGISTRY.get_sample_value("pose_model_reloads_total", {"outcome": outcome}) or 0
