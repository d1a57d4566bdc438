"""The directions of imports; generated code matches its source."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import stubs
from scripts.figures import ROOT, chain_of_rooms, imports, module

SERVICE = sorted(path for path in (ROOT / "service").rglob("*.py") if "pb" not in path.parts)
CLIENT = sorted(path for path in (ROOT / "client").rglob("*.py") if "pb" not in path.parts)
MODEL = sorted((ROOT / "model").rglob("*.py"))

# what each room may import of the rooms below it; a room is the longest prefix of a module's name
ROOMS: dict[str, set[str]] = {
    "service": set(),  # the words of all rooms: errors, types, settings
    "service.security": {"service"},
    "service.observability": {"service", "service.security"},
    "service.inference": {"service", "service.observability", "model"},
    "service.core": {"service", "service.security", "service.observability", "model"},
    "service.streaming": {
        "service", "service.security", "service.observability", "service.core", "model",
    },
    "service.wire": {"service", "service.streaming"},
    "service.api": {"service", "service.core"},
    "service.api.http": {
        "service", "service.security", "service.observability", "service.core", "service.streaming",
        "service.api", "model",
    },
    "service.api.grpc": {
        "service", "service.security", "service.observability", "service.core", "service.streaming",
        "service.wire", "service.api", "model",
    },
    "service.api.openinference": {
        "service", "service.core", "service.wire", "service.api", "service.api.http", "service.api.grpc",
        "model",
    },
    "model": set(),  # what serving imports of it
    "model.networks": {"model"},
    "model.data": {"model", "model.networks"},
    "model.evaluation": {"model", "model.networks", "model.data"},
    "model.training": {"model", "model.networks", "model.data", "model.evaluation"},
    "model.adopt": {"model"},
}  # fmt: skip
# the modules of model/, which is one folder, by their rooms
MODEL_ROOMS = {
    "model": {"keypoints", "geometry", "artefact", "topdown"},
    "model.networks": {"blocks", "lgmpose", "detector", "serving", "profile", "fuse"},
    "model.data": {"samples", "coco", "mpii", "augment", "packed", "pose_dataset", "detector_dataset"},
    "model.evaluation": {
        "metrics", "predictors", "baselines", "evaluate", "calibrate", "prune", "average", "quantize",
        "export",
    },
    "model.training": {"curves", "distil", "loss", "muon", "tasks", "train"},
    "model.adopt": {
        "adopt",
        "adopt.arrays",
        "adopt.check",
        "adopt.command",
        "adopt.detectors",
        "adopt.family",
        "adopt.network",
        "adopt.poses",
        "adopt.wrap",
    },
}  # fmt: skip
OPENVINO = "service.inference.openvino_session"  # imported where openvino is installed and chosen
RUNTIME, TORCH = "service.inference.runtime", "model.serving"  # imported where POSE_RUNTIME=torch asks for it
WORDS = {"service", "service.config", "service.errors", "service.types"}
WIRING = {
    "service.__main__",
    "service.app",
    "service.cli",
    "service.doctor",
    "service.local",
    "service.ports",
    "service.server",
}  # they use every room


MODULES = {module(path) for path in SERVICE + MODEL}


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in ("service", "model")}


def room(name: str) -> str:
    """The room of a module. Raises ValueError where no rule covers it."""
    if name in WORDS:
        return "service"
    top, _, rest = name.partition(".")
    if top == "model":
        found = [room for room, modules in MODEL_ROOMS.items() if rest in modules or not rest]
    else:
        found = [prefix for prefix in ROOMS if prefix != "service" and f"{name}.".startswith(f"{prefix}.")]
    if not found:
        raise ValueError(f"no rule covers {name}")
    return found[0] if top == "model" else max(found, key=len)


@pytest.mark.parametrize("path", [path for path in SERVICE + MODEL if module(path) not in WIRING], ids=module)
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    name = module(path)
    imported = ours(path) - ({TORCH} if name == RUNTIME else set())
    assert {room(each) for each in imported} <= ROOMS[room(name)] | {room(name)}


def test_every_module_of_the_table_exists() -> None:
    named = {f"model.{name}" for modules in MODEL_ROOMS.values() for name in modules}
    assert named == {module(path) for path in MODEL} - {"model"}
    assert MODULES >= WORDS | WIRING


def test_the_rooms_have_an_order() -> None:
    """Each room of the table names only rooms above it in the table."""
    seen: set[str] = {"model"}
    for name, below in ROOMS.items():
        assert below <= seen, name
        seen.add(name)


def test_the_chain_of_rooms_is_short() -> None:
    assert 1 < len(chain_of_rooms("service")) <= 7


@pytest.mark.parametrize("path", SERVICE, ids=module)
def test_the_service_imports_no_torch_and_no_training_code(path: Path) -> None:
    absent = {"torch", "onnx"} | (set() if module(path) == OPENVINO else {"openvino"})
    assert not {name for name in imports(path) if name.split(".")[0] in absent}
    allowed = {f"model.{name}" for name in MODEL_ROOMS["model"]}
    if module(path) == RUNTIME:
        allowed.add(TORCH)
    if module(path) == "service.cli":
        allowed.add("model.adopt.command")  # imported by `adopt` alone
    assert {name for name in ours(path) if name.startswith("model")} <= allowed


def test_there_are_no_import_cycles() -> None:
    graph = {module(path): ours(path) for path in SERVICE + MODEL}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        for imported in graph.get(name, ()):
            visit(imported, (*above, name))

    for name in graph:
        visit(name, ())


def test_a_running_service_has_loaded_no_training_package() -> None:
    code = "import sys, service.app, service.server; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"fastapi", "grpc", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "onnx", "openvino", "matplotlib", "PIL", "av"}


@pytest.mark.parametrize("path", CLIENT, ids=lambda path: path.stem)
def test_the_client_shares_no_module_with_the_service(path: Path) -> None:
    assert not ours(path)


def test_the_client_loads_only_what_it_depends_on() -> None:
    code = "import sys, lgm_pose_client.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"httpx", "grpc", "google", "PIL", "tqdm"} <= loaded
    assert not loaded & {"service", "model", "fastapi", "pydantic", "onnxruntime", "cv2", "numpy", "av"}


@pytest.mark.parametrize("folder", stubs.COPIES)
def test_generated_code_matches_the_proto(folder: str, tmp_path: Path) -> None:
    stubs.write_stubs(tmp_path)
    stored = {path.name: path.read_text() for path in (ROOT / folder).glob("*_pb2*")}
    made = {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}
    assert made.keys() == stored.keys()
    for name, text in made.items():
        assert essence(text) == essence(stored[name]), f"{name}: run `make proto`"


def essence(generated: str) -> list[str]:
    """The parts that do not depend on the generator's version: descriptor and method paths."""
    lines = [line.strip() for line in generated.splitlines()]
    return [line for line in lines if "AddSerializedFile" in line or line.startswith("'/")]
