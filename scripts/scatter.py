"""Draws docs/accuracy-speed.png: `python scripts/scatter.py`, after `python -m benchmarks.pipeline`."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "accuracy-speed.png"
RESULT = ROOT / "benchmarks" / "results" / "pipeline.json"


def points() -> dict[str, Any]:
    """CPU milliseconds per photo and AP of each system, on all labelled photos."""
    rows = json.loads(RESULT.read_text())["rows"]
    return {
        row["system"]: [row["figures"]["cpu_ms"], row["ap"]] for row in rows if row["group"] == "all photos"
    }


def main() -> None:
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (milliseconds, ap) in points().items():
        axes.scatter(milliseconds, ap, s=90, label=name, marker="*" if name.startswith("ours") else "o")
    axes.set(xlabel="CPU ms a photo", ylabel="AP of keypoints, boxes detected", ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.legend()
    axes.grid(alpha=0.3)
    # the picture stores its figures, so a test can detect an outdated picture
    figure.savefig(PICTURE, dpi=150, metadata={"Description": json.dumps(points())})


if __name__ == "__main__":
    main()
