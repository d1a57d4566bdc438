"""Public functions that take or return arrays name the shapes in their docstring or class docstring."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = "service", "model"
SOURCES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "pb" not in path.parts
)

#: Names of array types in annotations.
ARRAY = re.compile(r"\b(NDArray|ArrayLike|Tensor|Floats|Pixels|Image|Boxes|Heatmaps|Keypoints|Doubles)\b")
#: "(N, 4)", "(n,)", "(...)", "(H / 4, W / 4)", "(height, width, 3)", or the word scalar.
SHAPE = re.compile(r"\bscalar\b|\((?:\.\.\.|[\w ./*+'-]+,[\w ,./*+'-]*)\)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def annotations(function: Function) -> str:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    nodes = [argument.annotation for argument in every] + [function.returns]
    return " ".join(ast.unparse(node) for node in nodes if node)


def of_arrays(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and documentation of each public function and method with arrays in its signature."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            if ARRAY.search(annotations(node)):
                yield node.name, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            about = ast.get_docstring(node) or ""
            for method in node.body:
                if not isinstance(method, Function) or re.match("_[^_]", method.name):
                    continue
                if ARRAY.search(annotations(method)):
                    yield f"{node.name}.{method.name}", f"{about}\n{ast.get_docstring(method) or ''}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_of_arrays_name_the_shapes(path: Path) -> None:
    missing = [name for name, text in of_arrays(ast.parse(path.read_text())) if not SHAPE.search(text)]
    assert missing == []


@pytest.mark.parametrize(
    "text", ["(N, 4) boxes", "a scalar", "scores (n,)", "of shape (...)", "(n, K, H/4, W/4)"]
)
def test_a_shape_is_recognised(text: str) -> None:
    assert SHAPE.search(text)


@pytest.mark.parametrize("text", ["the boxes", "boxes (sorted)", "boxes (x1 y1)"])
def test_a_remark_in_brackets_is_not_a_shape(text: str) -> None:
    assert not SHAPE.search(text)
