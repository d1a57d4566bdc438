"""Reading a published file: its one image input, shapes that are known, operators that onnxruntime has."""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from google.protobuf.message import EncodeError
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from model.adopt.family import AdoptError, Example
from model.geometry import Floats

_BUILT_IN = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_FIRST_OPSET = 11
#: Further inputs of PaddleDetection's networks. They undo a scaling that this code does itself.
_CONSTANT_INPUTS: dict[str, Callable[[tuple[int, int]], list[float]]] = {
    "scale_factor": lambda size: [1.0, 1.0],
    "im_shape": lambda size: [float(side) for side in size],
}


@dataclass(frozen=True)
class Published:
    """A published network with an input of known size.

    model: with one input (N, 3, H, W), N being any number where the network allows it, else 1.
    person: the class of persons.
    """

    path: Path
    sha256: str
    model: ModelProto
    input: str
    size: tuple[int, int]
    outputs: tuple[str, ...]
    person: int
    run: Callable[[Floats], tuple[npt.NDArray[Any], ...]]

    def example(self, image: Floats) -> Example:
        """What it gives for one input (1, 3, H, W)."""
        return Example(self.size, self.outputs, self.run(image), self.person)

    def tensor_names(self) -> Iterator[str]:
        """The names of its tensors and nodes."""
        graph = self.model.graph
        for node in graph.node:
            yield from (node.name, *node.output)
        yield from (initializer.name for initializer in graph.initializer)


def read_network(path: Path, size: tuple[int, int] | None) -> Published:
    """Read a published network. size: (height, width) of its input, where its file leaves that open.

    Raises AdoptError.
    """
    data, model = _load(path)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if known := entries.get("format"):
        raise AdoptError(f"{path}: is in our format {known!r} already")
    _check_operators(path, model)
    name = _image_input(path, model.graph)
    height, width = _fix_size(path, model.graph, name, size)
    _fix_other_inputs(path, model, name, (height, width))
    del model.graph.value_info[:]  # shapes for another size or batch
    outputs = tuple(output.name for output in model.graph.output)
    run = _opened(path, model, name, (height, width))
    person = _person(entries.get("names", "{}"))
    return Published(path, sha256(data).hexdigest(), model, name, (height, width), outputs, person, run)


def _load(path: Path) -> tuple[bytes, ModelProto]:
    if not path.is_file():
        raise AdoptError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf, onnx and the system raise classes of their own
        raise AdoptError(f"{path}: not a valid ONNX file: {first_line(error)}") from error
    if not model.graph.node:
        raise AdoptError(f"{path}: not a valid ONNX file: it has no graph")
    return path.read_bytes(), model


def _check_operators(path: Path, model: ModelProto) -> None:
    """Raises AdoptError if the graph needs operators that onnxruntime does not have."""
    own = {(function.domain, function.name) for function in model.functions}
    strange = {
        f"{node.domain}.{node.op_type}"
        for graph in _graphs(model.graph)
        for node in graph.node
        if node.domain not in _BUILT_IN and (node.domain, node.op_type) not in own
    }
    if strange:
        raise AdoptError(f"{path}: needs custom operators: {', '.join(sorted(strange))}")
    opsets: Mapping[str, int] = {each.domain: each.version for each in model.opset_import}
    if (version := opsets.get("", opsets.get("ai.onnx", 0))) < _FIRST_OPSET:
        raise AdoptError(f"{path}: opset {version} is older than {_FIRST_OPSET}: export it again")


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.ByteSize() else ():
                if inner.node:
                    yield from _graphs(inner)


def _image_input(path: Path, graph: GraphProto) -> str:
    """The name of the one input of images, (N, 3, H, W) float32."""
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    images = [each for each in inputs if len(each.type.tensor_type.shape.dim) == 4]
    if len(images) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise AdoptError(f"{path}: needs one image input (N, 3, H, W), has the inputs {names}")
    (image,) = images
    kind = TensorProto.DataType.Name(image.type.tensor_type.elem_type)
    channels = image.type.tensor_type.shape.dim[1].dim_value
    if channels not in (0, 3) or kind != "FLOAT":
        sides = ", ".join(str(dim.dim_value or "?") for dim in image.type.tensor_type.shape.dim)
        raise AdoptError(f"{path}: its input {image.name} is {kind} ({sides}), not FLOAT (N, 3, H, W)")
    return str(image.name)


def _fix_size(path: Path, graph: GraphProto, name: str, wanted: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the input, which the graph holds afterwards."""
    (image,) = (each for each in graph.input if each.name == name)
    dims = image.type.tensor_type.shape.dim
    size = dims[2].dim_value, dims[3].dim_value
    if 0 in size:
        if wanted is None:
            raise AdoptError(f"{path}: the size of its input is dynamic: give one with --size HEIGHTxWIDTH")
        size = wanted
    elif wanted not in (None, size):
        raise AdoptError(f"{path}: its input is {size[0]}x{size[1]}, not {wanted[0]}x{wanted[1]}")
    dims[1].dim_value, dims[2].dim_value, dims[3].dim_value = 3, *size
    return size


def _fix_other_inputs(path: Path, model: ModelProto, name: str, size: tuple[int, int]) -> None:
    """Make constants of the inputs that have one right value."""
    graph = model.graph
    weights = {initializer.name for initializer in graph.initializer}
    for other in [each for each in graph.input if each.name != name and each.name not in weights]:
        if other.name not in _CONSTANT_INPUTS:
            raise AdoptError(f"{path}: needs a further input, {other.name}")
        value = np.array([_CONSTANT_INPUTS[other.name](size)], np.float32)
        graph.initializer.append(numpy_helper.from_array(value, other.name))
        graph.input.remove(other)


def _person(names: str) -> int:
    """The class of persons among Ultralytics' `names`, "{0: 'person', ...}"; 0 where there is none."""
    try:
        classes = dict(ast.literal_eval(names))
    except (ValueError, TypeError, SyntaxError):
        return 0
    return next((int(number) for number, name in classes.items() if name == "person"), 0)


def _opened(
    path: Path, model: ModelProto, name: str, size: tuple[int, int]
) -> Callable[[Floats], tuple[npt.NDArray[Any], ...]]:
    """Runs the network image by image; makes the batch of the model dynamic if possible."""
    (image,) = (each for each in model.graph.input if each.name == name)
    batch = image.type.tensor_type.shape.dim[0]
    probe = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    published = batch.dim_value
    batch.dim_value = 1
    single = open_session(path, model)
    try:
        apart = [single.run(None, {name: each}) for each in probe[:, None]]
    except Exception as error:
        if published > 1:
            raise AdoptError(f"{path}: contains its batch of {published}: export it with 1") from error
        raise AdoptError(f"{path}: cannot be run at {size[0]}x{size[1]}: {first_line(error)}") from error
    batch.dim_param = "N"
    if not _runs_batches(model, name, probe, apart):
        batch.dim_value = 1

    def run(images: Floats) -> tuple[npt.NDArray[Any], ...]:
        return tuple(single.run(None, {name: images}))

    return run


def _runs_batches(model: ModelProto, name: str, probe: Floats, apart: list[list[npt.NDArray[Any]]]) -> bool:
    """Whether the model gives for two inputs together what it gives for each."""
    outputs = [
        helper.make_tensor_value_info(o.name, o.type.tensor_type.elem_type, None) for o in model.graph.output
    ]
    freed = ModelProto()
    freed.CopyFrom(model)
    del freed.graph.output[:]
    freed.graph.output.extend(outputs)
    try:
        together = open_session(Path(), freed).run(None, {name: probe})
    except Exception:  # the batch of 1 is written into the graph
        return False
    return all(
        joined.shape == (2, *first.shape[1:])
        and first.shape[0] == 1
        and np.allclose(joined, np.concatenate([first, second]), rtol=1e-3, atol=1e-3)
        for joined, first, second in zip(together, *apart, strict=True)
    )


def open_session(path: Path, model: ModelProto) -> onnxruntime.InferenceSession:
    """A session on one thread. Raises AdoptError with the path if onnxruntime cannot load the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; a batch that the graph cannot run is tried too
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise AdoptError(f"{path}: is larger than 2 GiB, which is too large for one file") from error
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise AdoptError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().partition("\n")[0]
