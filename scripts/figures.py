"""Prints the size of the code: `python scripts/figures.py`. Generated code is left out."""

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "model")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(package: str) -> list[Path]:
    """Python files of a package, without generated ones."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if "pb" not in path.parts)


def module(path: Path) -> str:
    """The dotted name of a file of the repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Names of modules that a file imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if _is_module(name)} or {node.module}
    return found


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_graph(package: str) -> dict[str, set[str]]:
    """Which modules of a package each of its modules imports; `__init__` files are left out."""
    found = {module(path): imports(path) for path in sources(package) if path.stem != "__init__"}
    return {name: (names & found.keys()) - {name} for name, names in found.items()}


def room_graph(package: str) -> dict[str, set[str]]:
    """Which folders of a package the modules of each folder import."""
    graph: dict[str, set[str]] = {}
    for name, names in module_graph(package).items():
        room = name.rpartition(".")[0]
        graph.setdefault(room, set()).update(other.rpartition(".")[0] for other in names)
    return {room: rooms - {room} for room, rooms in graph.items()}


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports. Raises RecursionError if imports form a cycle."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        chains = [below(other) for other in sorted(graph[name])]
        return (name, *max(chains, key=len, default=()))

    return list(max((below(name) for name in sorted(graph)), key=len))


def chain_of_rooms(package: str) -> list[str]:
    """The longest chain of folders, without the package's own: its modules are the words, which every room
    imports, and the wiring, which imports every room."""
    graph = room_graph(package)
    return longest_chain({room: below - {package} for room, below in graph.items() if room != package})


def functions(package: str) -> Iterator[tuple[int, str]]:
    """Lines and name of each function."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, _Function):
                assert node.end_lineno is not None
                yield node.end_lineno - node.lineno + 1, f"{module(path)}.{node.name}"


def _print(package: str) -> None:
    paths = sources(package)
    lengths = sorted(functions(package))
    lines = sum(len(path.read_text().splitlines()) for path in paths)
    rooms = {path.parent for path in paths}
    p90 = lengths[int(0.9 * (len(lengths) - 1))][0]
    median = statistics.median_low([length for length, _ in lengths])
    longest, name = lengths[-1]
    chain = longest_chain(module_graph(package))
    print(f"{package}: {len(rooms)} rooms, {len(paths)} files, {lines} lines")
    print(f"  functions: median {median}, p90 {p90}, longest {longest} lines ({name})")
    print(f"  longest import chain, {len(chain)} modules: {' > '.join(chain)}")
    chain = chain_of_rooms(package)
    print(f"  longest chain of rooms, {len(chain)}: {' > '.join(chain)}")


if __name__ == "__main__":
    for each in PACKAGES:
        _print(each)
