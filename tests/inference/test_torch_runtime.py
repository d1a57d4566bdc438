from pathlib import Path

import cv2
import numpy as np
import pytest

from service.errors import ArtefactError
from service.inference.pipeline import open_pipeline
from service.inference.runtime import open_session
from service.types import InferenceInput, Options

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "model" / "weights"


def test_torch_and_onnxruntime_find_the_same_persons() -> None:
    photo = np.asarray(cv2.imread(str(ROOT / "examples" / "astronaut.jpg")), np.uint8)
    frames = [InferenceInput(photo, Options())]
    (ours,), (theirs,) = (
        open_pipeline(WEIGHTS, threads=1, runtime=runtime).run(frames) for runtime in ("onnx", "torch")
    )
    assert len(ours.persons) == len(theirs.persons) >= 1
    for one, other in zip(ours.persons, theirs.persons, strict=True):
        # torch reads weights of half precision: up to 0.06 pixels were seen
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=0.1)
        np.testing.assert_allclose(one.bbox, other.bbox, atol=0.05)


def test_missing_torch_weights_are_reported_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "pose.onnx").write_bytes((WEIGHTS / "pose.onnx").read_bytes())
    with pytest.raises(ArtefactError, match=r"pose\.safetensors"):
        open_session(tmp_path / "pose.onnx", "pose", threads=1, runtime="torch")
