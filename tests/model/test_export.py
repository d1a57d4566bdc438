import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model import export
from model.detector import PersonDetector, resized
from model.keypoints import NAMES
from model.lgmpose import LGMPose

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations


def run(path: Path, image: np.ndarray) -> tuple[list[np.ndarray], dict[str, str]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image}), session.get_modelmeta().custom_metadata_map


def test_exported_pose_network_is_the_network_on_bgr_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LGMPose().eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    difference = export.export_pose(network, tmp_path / "pose.onnx", "9.9")
    crops = np.random.default_rng(0).integers(0, 256, (5, 256, 192, 3), np.uint8)
    (heatmaps,), metadata = run(tmp_path / "pose.onnx", crops)
    rgb = torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        np.testing.assert_allclose(heatmaps, network(rgb).numpy(), atol=1e-4)
    assert difference <= 1e-4 and np.abs(heatmaps).max() > 0.1
    assert metadata["task"] == "pose" and metadata["version"] == "9.9" and metadata["format"] == "1"
    assert json.loads(metadata["input_size"]) == [256, 192] and metadata["heatmap_stride"] == "4"
    assert tuple(json.loads(metadata["keypoint_names"])) == NAMES and metadata["crop_padding"] == "1.25"


def test_exported_detector_gives_boxes_and_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PersonDetector().eval()
    export.export_detector(network, tmp_path / "detector.onnx", "1")
    for size in ((320, 320), (192, 320), (320, 32)):
        photos = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
        (boxes, scores), metadata = run(tmp_path / "detector.onnx", photos)
        rgb = torch.from_numpy(photos[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            expected = network(rgb)
        np.testing.assert_allclose(boxes, expected[0].numpy(), atol=1e-2)
        np.testing.assert_allclose(scores, expected[1].numpy(), atol=1e-4)
    assert metadata["input_step"] == "32"
    assert metadata["task"] == "detector" and metadata["letterbox_fill"] == "114"


def test_a_detector_of_another_size_sees_the_same_at_the_same_place() -> None:
    torch.manual_seed(0)
    small = PersonDetector().eval()
    large = resized(small, (384, 352))
    photo = torch.zeros(1, 3, 384, 352)
    photo[..., :320, :320] = 255 * torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        boxes, scores = small(photo[..., :320, :320])
        more_boxes, more_scores = large(photo)
    assert more_boxes.shape == (1, 48 * 44 + 24 * 22 + 12 * 11, 4)
    near, far = 40 * 10 + 10, 44 * 10 + 10  # row 10, column 10 of stride 8, away from the border
    torch.testing.assert_close(more_boxes[0, far], boxes[0, near], atol=1.0, rtol=0)
    torch.testing.assert_close(more_scores[0, far], scores[0, near], atol=1e-2, rtol=0)


def test_nothing_is_written_when_the_runtimes_disagree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(export.ExportError, match="differ"):
        export.export_pose(LGMPose().eval(), tmp_path / "pose.onnx", "1")
    assert not (tmp_path / "pose.onnx").exists()
