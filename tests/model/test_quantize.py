import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from model import export, quantize
from model.artefact import DetectorMetadata, PoseMetadata, Task
from model.geometry import letterbox
from model.predictors import load_detector, load_pose, open_session
from tests.model.labelled import PORTRAIT
from tests.model.shards import FIRST_ID, write_shard

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
WEIGHTS = Path(quantize.__file__).parent / "weights"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of drawn persons; those of the last photos are kept apart."""
    write_shard(tmp_path / "data" / "train.tar", "train", 8, seed=0)
    monkeypatch.setattr(quantize, "IMAGES", 4)
    monkeypatch.setattr(quantize, "kept_apart", lambda sample: sample.id >= FIRST_ID + 6)
    return tmp_path / "data"


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_an_int8_file_says_what_it_is_and_finds_what_float32_finds(
    task: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MAX_LOSS", 1)
    network = Path(shutil.copy(WEIGHTS / f"{task}.onnx", tmp_path))
    quantize.write_int8(network, data)
    int8 = network.with_suffix(".int8.onnx")
    entries, old = (open_session(path).get_modelmeta().custom_metadata_map for path in (int8, network))
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    assert entries == {**old, "precision": "int8", "float32_sha256": sha256}
    assert int8.stat().st_size < 0.4 * network.stat().st_size
    assert str(tmp_path).encode() not in int8.read_bytes()
    if task == "detector":
        (before, _), (after, _) = (load_detector(path).detect([PORTRAIT])[0] for path in (network, int8))
        np.testing.assert_allclose(after[0], before[0], atol=20)
    else:
        box = np.array([[60, 0, 480, 606]], np.float32)
        before, after = (load_pose(path).estimate([PORTRAIT], [box])[0][0] for path in (network, int8))
        sure = before[:, 2] > 0.5
        assert sure.sum() >= 5
        np.testing.assert_allclose(after[sure], before[sure], atol=8)


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_the_chosen_layers_and_those_with_shared_weights_stay_in_float32(task: Task) -> None:
    graph = onnx.load(WEIGHTS / f"{task}.int8.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    int8 = [made_by.get(node.input[0]) == "DequantizeLinear" for node in layers]
    uses = Counter(
        node.input[1] for node in onnx.load(WEIGHTS / f"{task}.onnx").graph.node if node.op_type == "Conv"
    )
    shared = sum(count for count in uses.values() if count > 1)
    chosen = quantize.FLOAT_LAYERS[task]
    assert [position for position in range(10) if not int8[position]] == list(chosen)
    assert int8.count(False) == len(chosen) + shared and len(layers) > 50


@pytest.mark.parametrize("task", ["pose", "detector"])
def test_the_first_layer_sees_each_value_of_a_pixel(task: Task) -> None:
    graph = onnx.load(WEIGHTS / f"{task}.int8.onnx").graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    first = next(node for node in graph.node if node.op_type == "Conv")
    scale = values[made_by[first.input[0]].input[1]]
    np.testing.assert_allclose(scale, 1 / 127.5, rtol=1e-6)


def test_a_network_that_loses_too_much_is_not_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MAX_LOSS", -1.1)
    with pytest.raises(SystemExit, match=r"pose\.int8\.onnx: not written: the int8 network loses"):
        export.main(
            [str(WEIGHTS / "pose.safetensors"), "--out", str(tmp_path / "pose.onnx"), "--int8", str(data)]
        )
    assert (tmp_path / "pose.onnx").is_file() and not (tmp_path / "pose.int8.onnx").exists()


def test_ranges_come_from_inputs_as_the_service_makes_them(data: Path) -> None:
    samples = [sample for sample in quantize.read_data(data, "train") if not quantize.kept_apart(sample)]
    for metadata in (
        load_pose(WEIGHTS / "pose.onnx").metadata,
        load_detector(WEIGHTS / "detector.onnx").metadata,
    ):
        images = [*quantize._inputs(metadata, samples)]
        assert len(images) == 4
        for image in images:
            assert image.dtype == np.uint8
            if isinstance(metadata, PoseMetadata):
                assert image.shape == (256, 192, 3)
            else:
                assert isinstance(metadata, DetectorMetadata)
                fill, step = metadata.letterbox_fill, metadata.input_step
                expected, _ = letterbox(
                    samples[0].image(), metadata.input_size, fill, metadata.fit, step, metadata.resize
                )
                assert image.shape == expected.shape == (416, 352, 3)
