"""The worker without a server: a child that dies, hangs or is orphaned, and networks that are replaced."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from service.errors import ArtefactError, WorkerLost
from service.inference.child import ProcessPipeline
from service.inference.pipeline import open_pipeline
from service.inference.reloadable import AnyPipeline, Worker
from service.types import Boxes, Estimate, Frame, Options
from tests.support.networks import save_networks
from tests.support.service import ROOT, Pixels


def open_child(folder: Path, timeout_s: float = 60) -> ProcessPipeline:
    return ProcessPipeline(folder, threads=1, runtime="onnx", timeout_s=timeout_s)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_networks(tmp_path / "weights")


@pytest.fixture
def child(folder: Path) -> Iterator[ProcessPipeline]:
    child = open_child(folder)
    yield child
    child.close()


@pytest.fixture
def frames(pixels: Pixels) -> list[Frame]:
    return [Frame(pixels, Options()), Frame(pixels[:300, ::2], Options(max_persons=1))]


def test_a_child_answers_as_the_pipeline_does(
    child: ProcessPipeline, folder: Path, frames: list[Frame]
) -> None:
    here = open_pipeline(folder, threads=1)
    boxes = Boxes(np.array([[10, 20, 200, 300]], np.float32), np.ones(1, np.float32))
    for given in (frames, [Frame(frames[0].image, Options(), boxes)]):
        persons = [each.persons for each in here.run(given)]
        assert [each.persons for each in child.run(given)] == persons != []
    assert child.models == here.models


def test_what_a_batch_fails_by_is_told_and_the_child_lives_on(
    child: ProcessPipeline, frames: list[Frame]
) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)^Traceback .*detector\.py"):
        child.run([Frame(frames[0].image[:0], Options())])
    assert child.alive()
    assert child.run(frames)[0].persons


def test_a_killed_child_is_a_loss_until_it_is_restarted(child: ProcessPipeline, frames: list[Frame]) -> None:
    before = child.run(frames)
    os.kill(child._child.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        child.run(frames)
    assert not child.alive()
    child.restart()
    assert child.alive()
    assert [each.persons for each in child.run(frames)] == [each.persons for each in before]


def test_a_child_that_hangs_is_killed(folder: Path, frames: list[Frame]) -> None:
    child = open_child(folder, timeout_s=1)
    os.kill(child._child.pid, signal.SIGSTOP)
    with pytest.raises(WorkerLost):
        child.run(frames)
    assert not child.alive()
    child.close()


def test_what_stops_every_process_leaves_a_batch_to_finish(
    child: ProcessPipeline, frames: list[Frame]
) -> None:
    assert os.getpgid(child._child.pid) != os.getpgrp()
    child.run(frames)  # it has long begun
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child._child.pid, number)
    assert child.run(frames)[0].persons


def test_a_restart_needs_no_file_of_now(child: ProcessPipeline, folder: Path, frames: list[Frame]) -> None:
    shutil.rmtree(folder)
    os.kill(child._child.pid, signal.SIGKILL)
    child.restart()
    assert child.run(frames)[0].persons


def test_a_child_ends_with_its_parent_whatever_ends_that(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.inference.test_reloadable import open_child;"
        "child = open_child(Path(sys.argv[1])); print(child._child.pid, flush=True); time.sleep(600)"
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
def test_new_networks_replace_the_old_unless_they_are_bad(
    kind: str, folder: Path, frames: list[Frame], tmp_path: Path
) -> None:
    def open_() -> AnyPipeline:
        return open_child(folder) if kind == "process" else open_pipeline(folder, threads=1)

    worker = Worker(open_)
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
        assert REGISTRY.get_sample_value("pose_model_info", labels) == 1
    worker.restart()
    assert worker.models().pose.version == "2"
    assert worker.run(frames)[0].persons == answer
    worker.close()


def test_a_batch_that_comes_as_networks_are_replaced_runs_on_the_new(
    folder: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(lambda: open_child(folder))
    answer = worker.run(frames)[0].persons
    old = worker._pipeline
    run = old.run

    def late(frames: list[Frame]) -> list[Estimate]:
        worker.reload()
        return run(frames)

    monkeypatch.setattr(old, "run", late)
    assert worker.run(frames)[0].persons == answer
    assert worker._pipeline is not old
    worker.close()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_bad_networks_are_refused_at_the_start_too(kind: str, folder: Path, tmp_path: Path) -> None:
    _spoil(folder, "not finite", tmp_path / "other")
    with pytest.raises(ArtefactError, match=rf"{folder}/pose\.onnx: its outputs are not finite"):
        open_child(folder) if kind == "process" else open_pipeline(folder, threads=1)


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
