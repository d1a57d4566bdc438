"""Tiny networks in the published layouts: random heads on pooled pixels of an input (N, 3, 128, 192)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 128, 192


class Tiny:
    """A network under construction; each method adds nodes and returns the name of their result."""

    def __init__(self, size: tuple[int, int] = SIZE, scale: float = 0.5) -> None:
        """scale: of the weights."""
        self.size, self.scale, self.rng = size, scale, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: dict[str, list[Any]] = {"images": ["batch", 3, *size]}

    def add(self, kind: str, *inputs: str | npt.NDArray[Any], **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def _constant(self, value: npt.NDArray[Any]) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def level(self, stride: int, channels: int) -> str:
        """(N, channels, H / stride, W / stride)"""
        pooled = self.add("AveragePool", "images", kernel_shape=[stride] * 2, strides=[stride] * 2)
        weights = self.rng.normal(0, self.scale, (channels, 3, 1, 1)).astype(np.float32)
        bias = self.rng.normal(0, 1, channels).astype(np.float32)
        return self.add("Conv", pooled, weights, bias)

    def flat(self, name: str, channels: int) -> str:
        """(N, C, h, w) as (N, h * w, C)"""
        return self.add("Transpose", self.add("Reshape", name, np.array([0, channels, -1])), perm=[0, 2, 1])

    def table(self, strides: Sequence[int], channels: int, squashed: int | None = None) -> str:
        """(N, A, channels) of all levels, those from number `squashed` on in 0..1."""
        levels = [self.flat(self.level(stride, channels), channels) for stride in strides]
        table = self.add("Concat", *levels, axis=1)
        if squashed is None:
            return table
        ends = np.array([squashed]), np.array([channels])
        head = self.add("Slice", table, np.array([0]), ends[0], np.array([2]))
        tail = self.add("Sigmoid", self.add("Slice", table, *ends, np.array([2])))
        return self.add("Concat", head, tail, axis=2)

    def save(self, path: Path, outputs: dict[str, str], *, opset: int = 13, **metadata: str) -> Path:
        """Write the network; outputs: their names -> the results to give."""
        nodes = [*self.nodes, *(helper.make_node("Identity", [old], [new]) for new, old in outputs.items())]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.constants,
        )
        for output in graph.output:
            kind = TensorProto.INT64 if output.name == "labels" else TensorProto.FLOAT
            output.CopyFrom(helper.make_tensor_value_info(output.name, kind, None))
        model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
        if metadata:
            helper.set_model_props(model, metadata)
        onnx.save(model, path)
        return path


def rtmdet(path: Path) -> Path:
    """Maps of a logit and distances."""
    tiny = Tiny()
    maps = {f"map{s}": tiny.add("Transpose", tiny.level(s, 5), perm=[0, 2, 3, 1]) for s in (8, 16, 32)}
    return tiny.save(path, maps, opset=11)


def rtmdet_head(path: Path) -> Path:
    """Scores of three classes, then distances, as the head gives them."""
    tiny = Tiny()
    scores = {f"cls{s}": tiny.level(s, 3) for s in (8, 16, 32)}
    distances = {f"reg{s}": tiny.add("Exp", tiny.level(s, 4)) for s in (8, 16, 32)}
    return tiny.save(path, scores | distances)


def mmdeploy(path: Path, *, head: str = "bbox_head.rtm_cls.0.weight", scale: float = 0.5) -> Path:
    """Boxes after suppression, a varying number of them, and their classes. head: name of a weight."""
    tiny = Tiny(scale=scale)
    tiny.constants.append(numpy_helper.from_array(np.zeros(1, np.float32), head))
    dets = tiny.table((32,), 5, squashed=4)
    classes = tiny.flat(tiny.level(32, 2), 2)
    return tiny.save(path, {"dets": dets, "labels": tiny.add("ArgMax", classes, axis=2, keepdims=0)})


def yolox(path: Path, *, decoded: bool = False, classes: int = 80) -> Path:
    """One table of centre, size, objectness and classes."""
    tiny = Tiny(scale=0.005)
    table = tiny.table((8, 16, 32), 5 + classes, squashed=4)
    if decoded:
        points, strides = cells((8, 16, 32), 0)
        zero, two, four, last = (np.array([each]) for each in (0, 2, 4, 5 + classes))
        centres = tiny.add("Slice", table, zero, two, two)
        sizes = tiny.add("Exp", tiny.add("Slice", table, two, four, two))
        centres = tiny.add("Add", tiny.add("Mul", centres, strides[:, None]), points)
        sizes = tiny.add("Mul", sizes, strides[:, None])
        table = tiny.add("Concat", centres, sizes, tiny.add("Slice", table, four, last, two), axis=2)
    return tiny.save(path, {"output": table})


def picodet(path: Path) -> Path:
    """Four maps of scores and four of distributions; the batch of 1 is written into the graph."""
    tiny, levels = Tiny(), (8, 16, 32, 64)
    tiny.inputs["images"][0] = 1
    scores = {f"cls{s}": tiny.add("Sigmoid", tiny.flat(tiny.level(s, 80), 80)) for s in levels}
    sides = {}
    for s in levels:
        fixed = tiny.add("Reshape", tiny.level(s, 32), np.array([1, 32, SIZE[0] // s * SIZE[1] // s]))
        sides[f"reg{s}"] = tiny.add("Transpose", fixed, perm=[0, 2, 1])
    return tiny.save(path, scores | sides)


def picodet_boxes(path: Path) -> Path:
    """Boxes and scores after decoding, undone by the factor that the image was scaled by."""
    tiny = Tiny()
    tiny.inputs["scale_factor"] = [1, 2]
    twice = tiny.add("Concat", "scale_factor", "scale_factor", axis=1)
    boxes = tiny.add("Div", tiny.table((16, 32), 4), twice)
    scores = tiny.add("Transpose", tiny.add("Sigmoid", tiny.table((16, 32), 4)), perm=[0, 2, 1])
    return tiny.save(path, {"boxes": boxes, "scores": scores})


def picodet_rows(path: Path) -> Path:
    """Rows of class, score and box of all that is left after suppression, and their number."""
    tiny = Tiny()
    tiny.inputs |= {"images": [1, 3, *SIZE], "im_shape": [1, 2], "scale_factor": [1, 2]}
    table = tiny.add("Reshape", tiny.table((32,), 6, squashed=0), np.array([-1, 6]))
    kinds = tiny.add("Round", tiny.add("Slice", table, *(np.array([each]) for each in (0, 1, 1))))
    rest = tiny.add("Slice", table, *(np.array([each]) for each in (1, 6, 1)))
    scores = tiny.add("Slice", rest, *(np.array([each]) for each in (0, 1, 1)))
    shares = tiny.add("Slice", rest, *(np.array([each]) for each in (1, 5, 1)))
    height_width = tiny.add("Div", "im_shape", "scale_factor")
    boxes = tiny.add("Mul", shares, tiny.add("Concat", height_width, height_width, axis=1))
    return tiny.save(path, {"rows": tiny.add("Concat", kinds, scores, boxes, axis=1)})


def nanodet(path: Path, *, plus: bool = False) -> Path:
    """One table of class scores and distributions."""
    tiny, levels = Tiny(), (8, 16, 32, 64) if plus else (8, 16, 32)
    scores = tiny.add("Sigmoid", tiny.table(levels, 80))
    return tiny.save(path, {"output": tiny.add("Concat", scores, tiny.table(levels, 32), axis=2)})


def yolov8(path: Path, **metadata: str) -> Path:
    """One table of centre, size and classes, turned on its side."""
    tiny = Tiny()
    table = tiny.add("Transpose", tiny.table((8, 16, 32), 84, squashed=4), perm=[0, 2, 1])
    return tiny.save(path, {"output0": table}, **metadata)


def heatmaps(path: Path, *, keypoints: int = 17, stride: int = 4, size: tuple[int, int] = SIZE) -> Path:
    """Heatmaps, and next to them the places of their peaks."""
    tiny = Tiny(size)
    maps = tiny.add("Sigmoid", tiny.level(stride, keypoints))
    rows = tiny.add("Reshape", maps, np.array([0, keypoints, -1]))
    return tiny.save(path, {"heatmaps": maps, "peaks": tiny.add("ReduceMax", rows, axes=[2], keepdims=0)})


def simcc(path: Path) -> Path:
    """Classes of both coordinates, two a pixel."""
    tiny = Tiny()
    maps = tiny.level(1, 17)
    outputs = {}
    for name, axis, length in (("simcc_x", 2, SIZE[1]), ("simcc_y", 3, SIZE[0])):
        sums = tiny.add("ReduceMean", maps, axes=[axis], keepdims=0)
        mixed = tiny.rng.normal(0, 0.1, (length, 2 * length)).astype(np.float32)
        outputs[name] = tiny.add("MatMul", sums, mixed)
    return tiny.save(path, outputs)


def cells(strides: Sequence[int], offset: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """x, y (A, 2) of the cells of all levels, in pixels, and the stride (A,) of each, by plain loops."""
    found = [
        ((x + offset) * stride, (y + offset) * stride, stride)
        for stride in strides
        for y in range(SIZE[0] // stride)
        for x in range(SIZE[1] // stride)
    ]
    table = np.array(found, np.float32)
    return table[:, :2], table[:, 2]
