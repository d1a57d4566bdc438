import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Literal

import cv2
import numpy as np
import onnxruntime
import pytest

from service.errors import ArtefactError
from service.inference import openvino_session, runtime
from service.inference.openvino_session import OpenVinoSession
from service.inference.pipeline import open_pipeline
from service.inference.runtime import OnnxSession, SpreadSession, open_session
from service.inference.session import Session
from service.types import Floats, Image, InferenceInput, Options
from tests.support.networks import save_networks

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"
SHAPES = {"pose": (256, 192, 3), "detector": (416, 416, 3)}


SESSIONS = (OnnxSession, OpenVinoSession)


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("task", SHAPES)
def test_each_image_of_a_batch_gets_its_own_answer(
    task: str, kind: type[OnnxSession | OpenVinoSession]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPES[task]), np.uint8)
    one, three = (kind(WEIGHTS / f"{task}.onnx", threads=threads) for threads in (1, 3))
    alone = [one.run(images[index : index + 1]) for index in range(5)]
    for session in (one, three):
        for output, expected in zip(session.run(images), zip(*alone, strict=True), strict=True):
            np.testing.assert_allclose(output, np.concatenate(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "open_session",
    [OnnxSession, OpenVinoSession, partial(OpenVinoSession, calls=2), partial(OpenVinoSession, calls=4)],
)
def test_calls_at_the_same_time_get_their_own_answers(open_session: Callable[..., Session]) -> None:
    """Also more calls than the session runs at the same time."""
    images = np.random.default_rng(0).integers(0, 256, (8, *SHAPES["detector"]), np.uint8)
    session = open_session(WEIGHTS / "detector.onnx", threads=1)
    alone = [session.run(image) for image in images[:, None]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(session.run, images[:, None]))
    for one, other in zip(alone, together, strict=True):
        for output, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(output, expected)


class Numbered:
    """A session whose outputs are the images' numbers; it records the length of each run.

    together: as many runs must be in progress at the same time, or each fails.
    """

    metadata: Mapping[str, str] = {"version": "1"}
    batches = False
    runtime = "none"
    precision = "float32"

    def __init__(self, together: int = 1) -> None:
        self.runs: list[int] = []
        self._all_here = Barrier(together, timeout=10)

    def run(self, images: Image) -> tuple[Floats, ...]:
        self._all_here.wait()
        self.runs.append(len(images))
        return images[:, 0, 0, 0].astype(np.float32), images[:, 0, 0].astype(np.float32)


@pytest.mark.parametrize(
    ("threads", "images", "apart", "shared"),
    [(2, 1, 0, 1), (2, 2, 2, 0), (2, 3, 2, 1), (4, 2, 0, 2), (4, 3, 3, 0), (4, 4, 4, 0), (4, 6, 4, 2)],
)
def test_images_run_at_the_same_time_and_a_few_share_the_processors(
    threads: int, images: int, apart: int, shared: int
) -> None:
    all_threads, one_thread = Numbered(), Numbered(together=min(threads, apart) or 1)
    session = SpreadSession(all_threads, one_thread, threads=threads)
    batch = np.arange(images * 6, dtype=np.uint8).reshape(images, 1, 2, 3)
    numbers, pixels = session.run(batch)
    np.testing.assert_array_equal(numbers, batch[:, 0, 0, 0])
    np.testing.assert_array_equal(pixels, batch[:, 0, 0])
    assert (one_thread.runs, all_threads.runs) == ([1] * apart, [shared] if shared else [])


def test_a_failure_of_one_of_several_images_is_raised() -> None:
    class Failing(Numbered):
        def run(self, images: Image) -> tuple[Floats, ...]:
            if images.max() > 3:
                raise ValueError("too bright")
            return super().run(images)

    session = SpreadSession(Numbered(), Failing(), threads=2)
    with pytest.raises(ValueError, match="too bright"):
        session.run(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * 2)
    assert len(session.run(np.zeros((4, 1, 1, 1), np.uint8))[0]) == 4


def test_openvino_and_onnxruntime_find_the_same_persons() -> None:
    photo = np.asarray(cv2.imread(str(WEIGHTS.parents[1] / "examples" / "astronaut.jpg")), np.uint8)
    ours, theirs = (open_pipeline(WEIGHTS, threads=1, runtime=name) for name in ("onnx", "openvino"))
    assert ours.models.pose.runtime == "onnxruntime" and theirs.models.detector.runtime == "openvino"
    ((one,), (other,)) = (each.run([InferenceInput(photo, Options())]) for each in (ours, theirs))
    assert len(one.persons) == len(other.persons) >= 1
    for person, same in zip(one.persons, other.persons, strict=True):
        np.testing.assert_allclose(person.keypoints, same.keypoints, atol=0.1)
        np.testing.assert_allclose(person.bbox, same.bbox, atol=0.1)


def test_a_gpu_tries_no_algorithms_while_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what onnxruntime is asked for."""
    asked: list[object] = []
    session = onnxruntime.InferenceSession

    def record(path: Path, options: object, providers: list[object]) -> object:
        asked.extend(providers)
        return session(path, options, providers=providers[-1:])

    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", record)
    OnnxSession(WEIGHTS / "pose.onnx", threads=1)
    heuristic = {"cudnn_conv_algo_search": "HEURISTIC"}
    assert asked == [("CUDAExecutionProvider", heuristic), "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("whole", "threads", "pinned"), [(True, 2, True), (False, 2, False), (True, 1, False)]
)
def test_openvino_pins_the_threads_of_a_call_where_it_has_the_whole_machine(
    monkeypatch: pytest.MonkeyPatch, whole: bool, threads: int, pinned: bool
) -> None:
    asked: list[Mapping[str, object]] = []
    core = openvino_session._core()

    class Core:
        read_model = staticmethod(core.read_model)

        @staticmethod
        def compile_model(network: object, device: str, hints: Mapping[str, object]) -> object:
            asked.append(hints)
            return core.compile_model(network, device, hints)

    monkeypatch.setattr(openvino_session, "_core", Core)
    monkeypatch.setattr(openvino_session, "is_whole_machine", lambda threads: whole)
    session = OpenVinoSession(WEIGHTS / "pose.onnx", threads=threads)
    session.run(np.zeros((1, *SHAPES["pose"]), np.uint8))
    assert [hints["ENABLE_CPU_PINNING"] for hints in asked] == [pinned]


def test_a_session_of_either_kind_reads_the_metadata_of_the_file() -> None:
    ours, theirs = (kind(WEIGHTS / "pose.onnx", threads=1) for kind in SESSIONS)
    assert dict(theirs.metadata) == dict(ours.metadata)


def test_openvino_refuses_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "pose.onnx").write_bytes((WEIGHTS / "pose.onnx").read_bytes()[:5000])
    with pytest.raises(ArtefactError, match=r"pose\.onnx: OpenVINO cannot run it"):
        open_session(tmp_path / "pose.onnx", "pose", threads=1, runtime="openvino")


VNNI = "fpu avx2 avx512f avx512_vnni"


@pytest.mark.parametrize(
    ("flags", "installed", "pose", "detector"),
    [
        (VNNI, True, ("openvino", "int8"), ("openvino", "int8")),
        (VNNI, False, ("onnxruntime", "float32"), ("onnxruntime", "float32")),
        ("fpu avx2 avx512f", True, ("openvino", "float32"), ("onnxruntime", "float32")),
        ("fpu avx2", True, ("onnxruntime", "float32"), ("onnxruntime", "float32")),
    ],
)
def test_auto_is_what_the_processor_runs_fastest(
    flags: str, installed: bool, pose: tuple[str, str], detector: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(runtime, "_processor_flags", lambda: set(flags.split()))
    monkeypatch.setattr(runtime, "find_spec", lambda name: installed or None)
    models = open_pipeline(WEIGHTS, threads=1).models
    assert (models.pose.runtime, models.pose.precision) == pose
    assert (models.detector.runtime, models.detector.precision) == detector


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_runtime_that_is_asked_for_runs_the_file_that_is_named(
    name: Literal["onnx", "openvino"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_processor_flags", lambda: set(VNNI.split()))
    assert open_session(WEIGHTS / "pose.onnx", "pose", threads=1, runtime=name).precision == "float32"
    assert open_session(WEIGHTS / "pose.int8.onnx", "pose", threads=1, runtime=name).precision == "int8"


def test_an_int8_file_of_another_network_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "_processor_flags", lambda: set(VNNI.split()))
    save_networks(tmp_path, version="new")
    for task in SHAPES:
        shutil.copy(WEIGHTS / f"{task}.int8.onnx", tmp_path)
    models = open_pipeline(tmp_path, threads=1).models
    assert models.pose.version == models.detector.version == "new"
    assert models.pose.precision == models.detector.precision == "float32"
    assert [record.message for record in caplog.records] == ["int8 network not used"] * 2


def test_int8_and_float32_find_the_same_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = np.asarray(cv2.imread(str(WEIGHTS.parents[1] / "examples" / "astronaut.jpg")), np.uint8)
    monkeypatch.setattr(runtime, "_processor_flags", lambda: set(VNNI.split()))
    ours, int8 = (open_pipeline(WEIGHTS, threads=1, runtime=name) for name in ("onnx", "auto"))
    assert int8.models.pose.precision == int8.models.detector.precision == "int8"
    ((one,), (other,)) = (each.run([InferenceInput(photo, Options())]) for each in (ours, int8))
    assert len(one.persons) == len(other.persons) >= 1
    for person, same in zip(one.persons, other.persons, strict=True):
        before, after = np.array(person.keypoints), np.array(same.keypoints)
        sure = before[:, 2] > 0.5
        assert sure.sum() >= 5
        np.testing.assert_allclose(after[sure], before[sure], atol=6)
        np.testing.assert_allclose(person.bbox, same.bbox, atol=12)
