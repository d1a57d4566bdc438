import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model.detector import STRIDES, DetectorConfig, PersonDetector, load, save
from model.distil import DenseTeacher
from model.tasks import make_task
from model.train import TrainConfig, train

REACH = 24.0  # pixels from a point to each side of the teacher's boxes


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense detector that takes what is bright for a person: at each point of each stride a score
    logit and four distances, as (1, height x width, 5)."""
    nodes, outputs = [helper.make_node("ReduceMean", ["images"], ["grey"], axes=[1], keepdims=1)], []
    constants = [numpy_helper.from_array(torch.tensor([1, -1, 1]).numpy(), "column")]
    for stride in STRIDES:
        points = (320 // stride) ** 2
        reach = torch.full((1, points, 4), REACH).numpy()
        constants.append(numpy_helper.from_array(reach, f"reach{stride}"))
        nodes += [
            helper.make_node(
                "AveragePool", ["grey"], [f"pooled{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Reshape", [f"pooled{stride}", "column"], [f"logit{stride}"]),
            helper.make_node("Concat", [f"logit{stride}", f"reach{stride}"], [f"out{stride}"], axis=2),
        ]
        outputs.append(helper.make_tensor_value_info(f"out{stride}", TensorProto.FLOAT, [1, points, 5]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 320, 320])
    graph = helper.make_graph(nodes, "bright", [images], outputs, constants)
    path = tmp_path_factory.mktemp("teachers") / "rtmdet-nano-320-person.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


@pytest.fixture
def config(shards: Path, teacher: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        task="detector", data=str(shards), run=str(tmp_path / "run"), cache=str(tmp_path / "cache"),
        teachers=str(teacher.parent), epochs=2, batch=2, warmup=2, threads=1, frozen_stages=4, lr=3e-3,
        ema=0.5,
    )  # fmt: skip


def test_the_teacher_returns_pixels_of_the_same_image(teacher: Path) -> None:
    image = torch.zeros(1, 3, 320, 320)
    image[..., 160:, :] = 255
    boxes, scores = DenseTeacher(teacher, 1)(image)
    assert boxes.shape == (1, 2100, 4) and scores.shape == (1, 2100)
    point = boxes[0, 40 * 30 + 7]  # row 30, column 7 of stride 8
    assert point.tolist() == [56 - REACH, 240 - REACH, 56 + REACH, 240 + REACH]
    assert scores[0, 40 * 30 + 7] > 0.8 > 0.2 > scores[0, 40 * 10 + 7]


def test_a_detector_learns_from_its_teacher_and_leaves_its_weights(config: TrainConfig) -> None:
    config = replace(config, frozen_stages=0, epochs=4)
    task = make_task(config)
    before = sum(task.loss(task.network, step, 2, 99).item() for step in range(3))
    run = train(config)
    after = sum(task.loss(run.network, step, 2, 99).item() for step in range(3))
    assert run.step == 24 and after < 0.9 * before
    assert 0 <= json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["AP"] <= 1
    stored = load(run.folder / "detector.safetensors").state_dict()
    assert all(torch.equal(stored[name], value) for name, value in run.average.state_dict().items())


def test_frozen_layers_of_the_backbone_stay_and_the_others_learn(config: TrainConfig) -> None:
    torch.manual_seed(config.seed)
    start = make_task(config).network.state_dict()
    trained = train(replace(config, epochs=1)).network.state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, start[name])}
    layers = {int(name.split(".")[2]) for name in moved if name.startswith("backbone.layers.")}
    assert layers == set(range(4, 15)) and "score.bias" in moved


def test_training_continues_a_pruned_and_calibrated_detector(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    widths = ((1, 16, 1), (3, 24, 2), (6, 24, 1), (3, 32, 2), (2, 64, 2), (2, 96, 2))
    pruned = PersonDetector(replace(DetectorConfig(), backbone=widths, score_scale=3.0, box_margin=1.2))
    save(pruned, tmp_path / "pruned.safetensors")
    task = make_task(replace(config, init=str(tmp_path / "pruned.safetensors")))
    assert isinstance(task.network, PersonDetector)
    assert task.network.config == DetectorConfig(backbone=widths)
    for name, tensor in task.network.state_dict().items():
        assert torch.equal(tensor, pruned.state_dict()[name])
