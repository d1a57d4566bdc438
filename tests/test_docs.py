"""The documents are correct: figures match result files, links resolve, settings are described."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "model").rglob("*.md"))
    if ".venv" not in path.parts
)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def test_tables_match_the_result_files() -> None:
    script = "import sys; sys.path.insert(0, 'scripts'); import tables; print(*tables.stale())"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


def test_the_accuracy_plot_matches_the_result_file() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "pipeline.json").read_text())["rows"]
    expected = {r["system"]: [r["figures"]["cpu_ms"], r["ap"]] for r in rows if r["group"] == "all photos"}
    with Image.open(ROOT / "docs" / "accuracy-speed.png") as picture:
        drawn = json.loads(picture.info["Description"])
    assert drawn == expected, "run `python scripts/scatter.py`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_point_to_existing_files(document: Path) -> None:
    missing = [link for link in _LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_modules_and_targets_that_exist(document: Path) -> None:
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for module in re.findall(r"python -m ((?:service|model|benchmarks)[a-z_.]*[a-z_])", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_pages_make_a_site_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        command, cwd=ROOT, env={"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    assert "AP" in (tmp_path / "model-card" / "index.html").read_text()
