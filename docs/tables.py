"""Puts the measured figures into the documents: `python docs/tables.py`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; its rows come from the result files
that the benchmarks and the evaluation write, so no figure is typed.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "model/weights/MODEL_CARD.md")
ACCURACY = ROOT / "model" / "weights" / "accuracy.json"
_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def accuracy() -> str:
    """Every row that `python -m model.evaluate --json` wrote."""
    rows = json.loads(ACCURACY.read_text())["rows"]
    lines = [
        "| what | network | AP | AP50 | AP75 | AR | persons | photos |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(f"{row[key]:.3f}" for key in ("ap", "ap50", "ap75", "ar"))
        lines.append(f"| {row['task']} | {row['network']} | {shares} | {row['persons']} | {row['images']} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"accuracy": accuracy}


def filled(text: str) -> str:
    """A document with its tables made anew. Raises KeyError for a table that nobody makes."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def stale() -> list[Path]:
    """The documents whose tables differ from the result files."""
    documents = [ROOT / name for name in DOCUMENTS]
    return [path for path in documents if filled(path.read_text()) != path.read_text()]


if __name__ == "__main__":
    for path in stale():
        path.write_text(filled(path.read_text()))
        print(f"{path.relative_to(ROOT)} updated", file=sys.stderr)
