"""Who may import whom, and what is generated or copied stays true to its source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVICE = sorted(path for path in (ROOT / "service").rglob("*.py") if "pb" not in path.parts)
MODEL = sorted((ROOT / "model").rglob("*.py"))

# what each module of the service may import of this project; app and __main__ wire everything
ALLOWED: dict[str, set[str]] = {
    "service": set(),
    "service.access": {
        "service.caller", "service.errors", "service.metrics", "service.tracing", "service.types",
    },
    "service.api": set(),
    "service.batching": {"service.errors", "service.metrics"},
    "service.camera": {"service.smoothing", "service.tracking", "service.types"},
    "service.caller": {"service.errors"},
    "service.coco": {"service.types"},
    "service.config": set(),
    "service.cpu": set(),
    "service.detector": {"model.geometry", "service.runtime", "service.types"},
    "service.drawing": {"model.keypoints", "service.image", "service.types"},
    "service.errors": set(),
    "service.estimator": {
        "service.batching", "service.caller", "service.errors", "service.image",
        "service.tracing", "service.types",
    },
    "service.frames": {"service.errors", "service.types"},
    "service.image": {"service.errors", "service.types"},
    "service.keys": {"service.caller", "service.errors"},
    "service.logs": set(),
    "service.messages": {"service.errors", "service.frames", "service.pb", "service.types"},
    "service.metrics": {"service.processes"},
    "service.pipeline": {
        "service.detector", "service.pose", "service.runtime", "service.types",
    },
    "service.pose": {
        "model.geometry", "model.keypoints",
        "service.errors", "service.runtime", "service.types",
    },
    "service.process": {"service.errors", "service.pipeline", "service.runtime", "service.types"},
    "service.processes": set(),
    "service.runtime": {"model.serving", "service.errors", "service.types"},
    "service.security": {
        "service.config", "service.errors", "service.keys", "service.tls", "service.watching",
    },
    "service.smoothing": set(),
    "service.stream": {
        "service.access", "service.caller", "service.camera", "service.errors", "service.estimator",
        "service.frames", "service.metrics", "service.types",
    },
    "service.tls": {"service.errors"},
    "service.tracing": set(),
    "service.tracking": {"model.keypoints", "service.pose", "service.types"},
    "service.types": set(),
    "service.video": {"service.errors", "service.frames", "service.types"},
    "service.worker": {"service.errors", "service.metrics", "service.types"},
    "service.watching": {"service.errors"},
}  # fmt: skip
FREE_IN_SERVICE = {"service.app", "service.__main__"}
NOT_FOR_THE_CORE = ("service.api", "service.app", "service.client", "service.pb")
SPEAK_PROTOBUF = {"service.messages", "service.client.grpc", "service.client.reconnecting"}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules that a file imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in ("service", "model")}


@pytest.mark.parametrize("path", [path for path in SERVICE if module(path) in ALLOWED], ids=module)
def test_the_core_imports_what_it_may(path: Path) -> None:
    assert ours(path) <= ALLOWED[module(path)]


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_serving_needs_neither_torch_nor_the_trainer(path: Path) -> None:
    assert not {name for name in imports(path) if name.split(".")[0] in ("torch", "onnx", "openvino")}
    allowed = {"model.geometry", "model.keypoints"}
    if module(path) == "service.runtime":  # imports it only when POSE_RUNTIME=torch asks for it
        allowed.add("model.serving")
    assert {name for name in ours(path) if name.startswith("model")} <= allowed


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_the_core_knows_no_front_end(path: Path) -> None:
    if module(path) not in FREE_IN_SERVICE and not module(path).startswith("service.api"):
        outer = {name for name in ours(path) if name.startswith(NOT_FOR_THE_CORE)}
        if module(path) in SPEAK_PROTOBUF:
            outer.discard("service.pb")
        if module(path).startswith("service.client"):
            outer = {name for name in outer if not name.startswith("service.client")}
        assert not outer


@pytest.mark.parametrize("path", MODEL, ids=module)
def test_the_model_never_imports_the_service(path: Path) -> None:
    assert not {name for name in ours(path) if name.startswith("service")}


def test_no_import_goes_in_circles() -> None:
    graph = {module(path): ours(path) for path in SERVICE + MODEL}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        for imported in graph.get(name, ()):
            visit(imported, (*above, name))

    for name in graph:
        visit(name, ())


def test_a_running_service_has_loaded_no_training_package() -> None:
    code = "import sys, service.app, service.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"fastapi", "grpc", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "onnx", "openvino", "matplotlib", "PIL", "av"}


def test_the_client_loads_no_server() -> None:
    code = "import sys, service.client.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "fastapi",
        "uvicorn",
        "onnxruntime",
        "prometheus_client",
        "scipy",
        "av",
    }


def test_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    sources = [f"service/pb/{path.name}" for path in (ROOT / "proto").glob("*.proto")]
    command = ["-m", "grpc_tools.protoc", "-Iservice/pb=proto", *sources]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, *command, *outputs], cwd=ROOT, check=True)
    stored = {path.name: path.read_text() for path in (ROOT / "service" / "pb").glob("*_pb2*")}
    made = {path.name: path.read_text() for path in (tmp_path / "service" / "pb").iterdir()}
    assert made.keys() == stored.keys()
    for name, text in made.items():
        assert essence(text) == essence(stored[name]), f"{name}: run `make proto`"
    if version(made["pose_pb2.py"]) == version(stored["pose_pb2.py"]):
        assert made == stored, "run `make proto`"


def essence(generated: str) -> list[str]:
    """What the generator's version does not change: the descriptor and the paths of the methods."""
    lines = [line.strip() for line in generated.splitlines()]
    return [line for line in lines if "AddSerializedFile" in line or line.startswith("'/")]


def version(generated: str) -> str:
    return next(line for line in generated.splitlines() if line.startswith("# Protobuf Python Version"))
