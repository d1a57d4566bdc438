from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from service.errors import ArtefactError
from service.inference import runtime
from service.inference.openvino_session import OpenVinoSession
from service.inference.pipeline import open_pipeline
from service.inference.runtime import OnnxSession, open_session
from service.types import InferenceInput, Options

WEIGHTS = Path(__file__).parents[2] / "model" / "weights"
SHAPES = {"pose": (256, 192, 3), "detector": (384, 384, 3)}


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


@pytest.mark.parametrize("kind", SESSIONS)
def test_calls_at_the_same_time_get_their_own_answers(kind: type[OnnxSession | OpenVinoSession]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, *SHAPES["detector"]), np.uint8)
    session = kind(WEIGHTS / "detector.onnx", threads=1)
    alone = [session.run(image) for image in images[:, None]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(session.run, images[:, None]))
    for one, other in zip(alone, together, strict=True):
        for output, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(output, expected)


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


def test_a_session_of_either_kind_reads_the_metadata_of_the_file() -> None:
    ours, theirs = (kind(WEIGHTS / "pose.onnx", threads=1) for kind in SESSIONS)
    assert dict(theirs.metadata) == dict(ours.metadata)


def test_openvino_refuses_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "pose.onnx").write_bytes((WEIGHTS / "pose.onnx").read_bytes()[:5000])
    with pytest.raises(ArtefactError, match=r"pose\.onnx: OpenVINO cannot run it"):
        open_session(tmp_path / "pose.onnx", "pose", threads=1, runtime="openvino")


@pytest.mark.parametrize(
    ("flags", "installed", "pose"),
    [("fpu avx2 avx512f", True, "openvino"), ("fpu avx2 avx512f", False, "onnx"), ("fpu avx2", True, "onnx")],
)
def test_auto_is_openvino_where_it_saves_time(
    flags: str, installed: bool, pose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_processor_flags", lambda: set(flags.split()))
    monkeypatch.setattr(runtime, "find_spec", lambda name: installed or None)
    assert runtime._fastest("pose") == pose
    assert runtime._fastest("detector") == "onnx"
