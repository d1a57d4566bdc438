from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from openvino import opset15 as ops

from model.distil import TINYPOSE_BELOW, TINYPOSE_RIGHT, HeatmapTeacher, distil
from model.pose_dataset import PoseBatch
from model.tasks import make_task
from model.train import TrainConfig


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in the place of PP-TinyPose: each of its maps is the crop's red above the
    mean, made smaller so that corner pixels stay corner pixels."""
    images = ops.parameter([1, 3, 256, 192], np.float32, "image")
    red = ops.relu(ops.slice(images, np.array([0]), np.array([1]), np.array([1]), np.array([1])))
    small = ops.interpolate(
        red, np.array([64, 48]), "linear_onnx", "sizes", axes=np.array([2, 3]),
        coordinate_transformation_mode="align_corners", antialias=False,
    )  # fmt: skip
    maps = ops.concat([small] * 17, 1)
    path = tmp_path_factory.mktemp("teachers") / "pp-tinypose-256x192.xml"
    openvino.save_model(openvino.Model([maps], [images]), path)
    return path


def blob(x: float, y: float) -> torch.Tensor:
    """A crop (1, 3, 256, 192) with one soft red spot at a pixel."""
    ys, xs = torch.arange(256)[:, None], torch.arange(192)[None]
    spot = 255 * (-((xs - x) ** 2 + (ys - y) ** 2) / (2 * 8.0**2)).exp()
    return torch.stack([spot, torch.zeros(256, 192), torch.zeros(256, 192)])[None]


@pytest.mark.parametrize(("x", "y"), [(30.0, 40.0), (150.0, 200.0)])
def test_the_teacher_returns_student_pixels_without_its_own_offset(teacher: Path, x: float, y: float) -> None:
    maps = HeatmapTeacher(teacher, 1)(blob(x, y))
    assert maps.shape == (1, 17, 64, 48)
    heat = maps[0]
    total = heat.sum((1, 2))
    centre_x = (heat.sum(1) * torch.arange(48)).sum(1) / total
    centre_y = (heat.sum(2) * torch.arange(64)).sum(1) / total
    expected_y = torch.tensor([(y + 0.5) / 4 - 0.5 - below for below in TINYPOSE_BELOW])
    assert torch.allclose(centre_x, torch.full((17,), (x + 0.5) / 4 - 0.5 - TINYPOSE_RIGHT), atol=0.06)
    assert torch.allclose(centre_y, expected_y, atol=0.06)


def test_human_labels_are_averaged_with_the_teacher() -> None:
    heatmaps, maps = torch.ones(1, 2, 4, 3), torch.full((1, 2, 4, 3), 0.5)
    batch = distil(PoseBatch(torch.zeros(1, 3, 16, 12), heatmaps, torch.tensor([[1.0, 0.7]])), maps)
    assert batch.heatmaps[0, 0].unique().tolist() == [0.75]
    assert batch.heatmaps[0, 1].unique().tolist() == [0.5]
    assert batch.weights.tolist() == [[1.0, 1.0]]


def test_a_pose_network_learns_from_the_teacher_where_one_is_given(
    shards: Path, teacher: Path, tmp_path: Path
) -> None:
    alone = TrainConfig(data=str(shards), cache=str(tmp_path), threads=1, frozen_stages=0)
    torch.manual_seed(1)
    tasks = [make_task(config) for config in (alone, replace(alone, teachers=str(teacher.parent)))]
    network = tasks[0].network
    without, with_teacher = (task.loss(network, 3, 4, 1).item() for task in tasks)
    # a map of the whole crop is far from the blank that a new network gives
    assert with_teacher > 2 * without


def test_a_folder_without_the_teacher_is_an_error(shards: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=str(shards), cache=str(tmp_path), threads=1, teachers=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"pp-tinypose-256x192\.xml"):
        make_task(config)
