"""The array operations of pre- and postprocessing, on NumPy arrays or recorded as nodes of an ONNX graph.

Each family is described once by these: the arrays say what the published network gives, the graph is what
serves. Operators that changed between the versions of ONNX are avoided, so any version from 11 on will do.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

#: A NumPy array, or a Symbol that stands for one.
Array = Any


class Recording:
    """Recorded nodes and constants, which are inserted before or after a network."""

    def __init__(self, prefix: str) -> None:
        """prefix: of the names of the nodes, which must not occur in the network."""
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._prefix = prefix

    def record(self, kind: str, *inputs: Array, output: str = "", **attributes: Any) -> "Symbol":
        """Add a node of an operator; inputs that are no symbols become constants."""
        name = output or f"{self._prefix}{len(self.nodes)}"
        names = [each.name if isinstance(each, Symbol) else self._constant(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return Symbol(self, name)

    def _constant(self, value: npt.ArrayLike) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        name = f"{self._prefix}constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


class Symbol:
    """An array of the graph that is being recorded."""

    __array_ufunc__ = None  # so that an array on the left side uses the operators of this class

    def __init__(self, recording: Recording, name: str) -> None:
        self.recording, self.name = recording, name

    def apply(self, kind: str, *others: Array, **attributes: Any) -> "Symbol":
        """The result of an operator on this array and others."""
        return self.recording.record(kind, self, *others, **attributes)

    def __add__(self, other: Array) -> "Symbol":
        return self.apply("Add", _floats(other))

    def __sub__(self, other: Array) -> "Symbol":
        return self.apply("Sub", _floats(other))

    def __mul__(self, other: Array) -> "Symbol":
        return self.apply("Mul", _floats(other))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Array) -> "Symbol":
        return self.recording.record("Sub", _floats(other), self)


def _floats(value: Array) -> Array:
    return value if isinstance(value, Symbol) else np.asarray(value, np.float32)


def as_floats(x: Array) -> Array:
    """x (...) in single precision."""
    return x.apply("Cast", to=TensorProto.FLOAT) if isinstance(x, Symbol) else np.asarray(x, np.float32)


def exp(x: Array) -> Array:
    """e to the power of x (...)."""
    return x.apply("Exp") if isinstance(x, Symbol) else np.exp(x)


def sigmoid(x: Array) -> Array:
    """The logistic function of x (...)."""
    return x.apply("Sigmoid") if isinstance(x, Symbol) else np.exp(-np.logaddexp(0, -x))


def softmax(x: Array) -> Array:
    """Softmax of x (...) along its last axis."""
    if isinstance(x, Symbol):
        return x.apply("Softmax", axis=-1)
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def matmul(x: Array, matrix: npt.NDArray[np.float32]) -> Array:
    """x (..., a) times a matrix (a, b)."""
    return x.apply("MatMul", matrix) if isinstance(x, Symbol) else x @ matrix


def transpose(x: Array, axes: Sequence[int]) -> Array:
    """x with its axes in another order."""
    return x.apply("Transpose", perm=list(axes)) if isinstance(x, Symbol) else x.transpose(axes)


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """x in another shape: 0 keeps the length of that axis, -1 takes what is left."""
    if isinstance(x, Symbol):
        return x.apply("Reshape", np.array(shape))
    return x.reshape([x.shape[axis] if length == 0 else length for axis, length in enumerate(shape)])


def concat(arrays: Sequence[Array], axis: int) -> Array:
    """The arrays, one after the other along an axis."""
    if isinstance(arrays[0], Symbol):
        return arrays[0].apply("Concat", *arrays[1:], axis=axis)
    return np.concatenate(arrays, axis)


def part(x: Array, axis: int, start: int, stop: int) -> Array:
    """x from `start` to before `stop` along an axis."""
    if isinstance(x, Symbol):
        return x.apply("Slice", np.array([start]), np.array([stop]), np.array([axis]))
    return np.take(x, range(start, stop), axis)


def first_rows(x: Array, count: int) -> Array:
    """`count` rows of x (N, M, D), with rows of zeros where M is less: (N, count, D)."""
    if isinstance(x, Symbol):
        return part(x.apply("Pad", np.array([0, 0, 0, 0, count, 0]), mode="constant"), 1, 0, count)
    return np.pad(x, [(0, 0), (0, count), (0, 0)])[:, :count]


def take(x: Array, axis: int, index: Sequence[int]) -> Array:
    """The elements of x at the indices along an axis."""
    if isinstance(x, Symbol):
        return x.apply("Gather", np.array(index), axis=axis)
    return np.take(x, index, axis)


def is_zero(x: Array) -> Array:
    """1 where the class numbers x (...) are 0, else 0, in single precision."""
    x = as_floats(x)
    if isinstance(x, Symbol):
        return as_floats(x.apply("Less", np.float32(0.5)))
    return as_floats(x < 0.5)
