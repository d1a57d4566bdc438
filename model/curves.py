"""Plots the loss and accuracy of a run."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw_curves(metrics: Path, newest: dict[str, Any], picture: Path) -> None:
    """Draw metrics.jsonl and one newer record: loss above, each AP below, by number of samples."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    records = [*(json.loads(line) for line in lines), newest]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 7))
    losses = [(r["samples"], r["loss"]) for r in records if "loss" in r]
    if losses:
        above.plot(*zip(*losses, strict=True), linewidth=0.8)
    above.set(ylabel="training loss", yscale="log")
    for name in sorted({key for r in records for key in r if key.startswith("AP")}):
        points = [(r["samples"], r[name]) for r in records if name in r]
        below.plot(*zip(*points, strict=True), marker="o", label=name)
    below.set(xlabel="samples", ylabel="val, averaged weights")
    if below.get_legend_handles_labels()[0]:
        below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
