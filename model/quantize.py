"""Quantises an exported network to int8, for processors with instructions for it.

Weights of convolutions are int8 with a scale for each channel. Their inputs are uint8, with a range that is
measured on training photos (post-training static quantisation, arXiv 1712.05877, section 2). The rest of the
network stays in float32.
"""

import contextlib
import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from model.artefact import KINDS, DetectorMetadata, Metadata, PoseMetadata, Task, int8_file
from model.evaluate import person_accuracy, pose_accuracy
from model.geometry import Pixels
from model.pose_dataset import read_data, usable
from model.predictors import load_detector, load_pose, open_session
from model.samples import Sample, kept_apart
from model.topdown import detector_input, pose_input

#: AP that a network may lose on the photos that are kept apart.
MAX_LOSS = 0.005
IMAGES = 256  # for the ranges

_LAYERS = ["Conv", "ConvTranspose"]
#: Positions of the convolutions that stay in float32: int8 loses most in the first depthwise convolution.
FLOAT_LAYERS: dict[Task, tuple[int, ...]] = {"pose": (1, 2), "detector": (1,)}
#: Per cent of the values of a tensor that its range includes; the others are clipped.
_INCLUDED = 99.99
#: Range of the first convolution's input, images / 127.5 - 1: then each step is a value of a pixel.
_PIXELS = TensorData(lowest=np.float32(-1), highest=np.float32(1))


class QuantisationError(RuntimeError):
    """The int8 network is less accurate than MAX_LOSS allows."""


class _OneImage(CalibrationDataReader):  # type: ignore[misc]
    """One image: the calibrator keeps every feature map of all images of a reader in memory."""

    def __init__(self, image: Pixels) -> None:
        self._inputs = iter([{"image": image[None]}])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self._inputs, None)


def write_int8(network: Path, data: Path) -> float:
    """Write the int8 form of an exported network next to it, from the labelled photos in a folder.

    Returns the AP that it loses on photos kept apart. Raises QuantisationError if that is more than MAX_LOSS.
    """
    train, val = (read_data(data, split) for split in ("train", "val"))
    entries = open_session(network).get_modelmeta().custom_metadata_map
    metadata = KINDS[entries["task"]].read(entries)
    photos = [sample for sample in train if not kept_apart(sample)]
    images = tqdm(_inputs(metadata, photos), "ranges", IMAGES, unit="image")
    model = quantize(network, images, FLOAT_LAYERS[metadata.task])
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    about = replace(metadata, precision="int8", float32_sha256=sha256)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, about.entries())
    apart = [sample for sample in train + val if kept_apart(sample)]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "int8.onnx"
        onnx.save(model, part)
        loss = _ap(network, metadata, apart) - _ap(part, metadata, apart)
        if loss > MAX_LOSS:
            raise QuantisationError(f"the int8 network loses {loss:.4f} AP, more than {MAX_LOSS}")
        int8_file(network).write_bytes(part.read_bytes())
    return loss


def quantize(network: Path, images: Iterable[Pixels], float_layers: Sequence[int]) -> onnx.ModelProto:
    """The network of an ONNX file in int8.

    images: uint8 (H, W, 3) BGR, inputs of the network. float_layers: positions of the convolutions that stay
    in float32.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        prepared, augmented = Path(folder) / "prepared.onnx", Path(folder) / "augmented.onnx"
        quant_pre_process(network, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        calibrator = create_calibrator(
            prepared, _LAYERS, augmented, CalibrationMethod.Percentile,
            extra_options={"percentile": _INCLUDED},
        )  # fmt: skip
        for image in images:
            calibrator.collect_data(_OneImage(image))
        ranges = calibrator.compute_data()
        ranges.data[_layers(model.graph)[0].input[0]] = _PIXELS
        quantizer = QDQQuantizer(
            model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8, tensors_range=ranges,
            nodes_to_quantize=[], nodes_to_exclude=_kept(model.graph, float_layers),
            op_types_to_quantize=_LAYERS,
            # OpenVINO fuses the addition of a shortcut only into a convolution with a float32 output
            extra_options={"OpTypesToExcludeOutputQuantization": _LAYERS},
        )  # fmt: skip
        quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type in _LAYERS]


def _kept(graph: onnx.GraphProto, float_layers: Sequence[int]) -> list[str]:
    """Names of the convolutions that stay in float32: those at the positions `float_layers`, and others.

    Those that share their weights are among them: their inputs differ in scale, and a bias has only one.
    """
    layers = _layers(graph)
    uses = Counter(node.input[1] for node in layers)
    return [node.name for n, node in enumerate(layers) if n in float_layers or uses[node.input[1]] > 1]


def _inputs(metadata: Metadata, samples: Sequence[Sample]) -> Iterator[Pixels]:
    """Inputs of the network from IMAGES photos, always the same ones."""
    usual = [sample for sample in samples if any(map(usable, sample.persons))]
    for index in np.random.default_rng(0).permutation(len(usual))[:IMAGES]:
        image, persons = usual[index].image(), usual[index].persons
        if isinstance(metadata, PoseMetadata):
            yield pose_input(image, next(filter(usable, persons)).box, metadata)[0]
        elif isinstance(metadata, DetectorMetadata):
            yield detector_input(image, metadata)[0]


def _ap(network: Path, metadata: Metadata, samples: Sequence[Sample]) -> float:
    if isinstance(metadata, PoseMetadata):
        return pose_accuracy(load_pose(network), samples).ap
    return person_accuracy(load_detector(network), samples).ap
