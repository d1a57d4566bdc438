"""Draws the dashboard with the data of a Prometheus.

render_board.py http://127.0.0.1:9090 board.png --minutes 15
"""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

BOARD = Path(__file__).parent / "grafana" / "dashboards" / "pose.json"
COLUMNS, CELL = 24, (0.75, 0.42)  # columns of Grafana's grid; width and height of a cell in inches
POINTS = 240  # per series
Json = dict[str, Any]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """A Prometheus and a time span: start and end as Unix time."""

    url: str
    start: float
    end: float
    rate_interval: str

    def times(self) -> Values:
        """Unix times (POINTS,) of the points of a series."""
        return np.linspace(self.start, self.end, POINTS)

    def series(self, panel: Json) -> dict[str, Values]:
        """The series (POINTS,) of a panel by name; NaN where there is no value, bytes in MiB."""
        scale = 2**-20 if _unit(panel) == "bytes" else 1
        found = {name: values for target in panel["targets"] for name, values in self._query(target).items()}
        return {name: values * scale for name, values in found.items()}

    def _query(self, target: Json) -> dict[str, Values]:
        step = (self.end - self.start) / (POINTS - 1)
        expr = target["expr"].replace("$__rate_interval", self.rate_interval)
        asked = urllib.parse.urlencode({"query": expr, "start": self.start, "end": self.end, "step": step})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{asked}") as answer:
            found = json.load(answer)["data"]["result"]
        return {_name(target["legendFormat"], each["metric"]): self._values(each, step) for each in found}

    def _values(self, series: Json, step: float) -> Values:
        values = np.full(POINTS, np.nan)
        for moment, value in series["values"]:
            values[round((moment - self.start) / step)] = float(value)
        return values


def _name(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


def draw_board(span: Span, path: Path) -> None:
    """Write the dashboard as an image."""
    board = json.loads(BOARD.read_text())
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = Figure(figsize=(COLUMNS * CELL[0], rows * CELL[1]), facecolor="#f4f5f5")
    for panel in board["panels"]:
        axes = _place(figure, panel, rows)
        _DRAW[panel["type"]](axes, panel, span)
    figure.savefig(path, dpi=80)


def _place(figure: Figure, panel: Json, rows: int) -> Axes:
    """Axes at the place of the panel, on a white card, with room for its title, labels and legend."""
    grid = panel["gridPos"]
    x, y = grid["x"] / COLUMNS, 1 - (grid["y"] + grid["h"]) / rows
    width, height = grid["w"] / COLUMNS, grid["h"] / rows
    if grid["h"] > 1:
        card = (x + 0.002, y + 0.002), width - 0.004, height - 0.004
        figure.add_artist(Rectangle(*card, facecolor="white", edgecolor="#d0d4d8", zorder=-1))
    left = 0.0 if panel["type"] == "stat" else 1.25 / COLUMNS
    below, above = min(2.2, grid["h"] / 4) / rows, min(1.2, grid["h"] / 3) / rows
    return figure.add_axes((x + left, y + below, width - 1.3 * left, height - below - above))


def _draw_row(axes: Axes, panel: Json, _: Span) -> None:
    axes.axis("off")
    axes.text(-0.035, 0.3, panel["title"], fontsize=13, fontweight="bold", transform=axes.transAxes)


def _draw_stat(axes: Axes, panel: Json, span: Span) -> None:
    axes.axis("off")
    axes.set_title(panel["title"], fontsize=10)
    series = span.series(panel)
    if panel["options"]["textMode"] == "name":
        axes.text(0.5, 0.5, "\n".join(series), ha="center", va="center", fontsize=9)
        return
    (values,) = series.values()
    last = values[np.isfinite(values)][-1]
    axes.text(0.5, 0.45, _text(panel, last), ha="center", va="center", fontsize=22, color=_color(panel, last))


def _draw_timeseries(axes: Axes, panel: Json, span: Span) -> None:
    series = span.series(panel)
    times = span.times().astype("datetime64[s]")
    custom = panel["fieldConfig"]["defaults"]["custom"]
    if custom["stacking"]["mode"] == "normal":
        axes.stackplot(times, [np.nan_to_num(each) for each in series.values()], labels=series, alpha=0.75)
    else:
        for name, values in series.items():
            axes.plot(times, values, label=name, linewidth=1.2)
    if custom["thresholdsStyle"]["mode"] == "line":
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=step["color"], linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0, top=None if any(np.nansum(each) > 0 for each in series.values()) else 1)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=_unit(panel) in ("none", "short")))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(panel, value)))
    columns = 3 if panel["gridPos"]["w"] >= 8 else 2
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=columns, fontsize=7, frameon=False)
    _finish(axes, panel, span)


def _draw_heatmap(axes: Axes, panel: Json, span: Span) -> None:
    """Prometheus' buckets are cumulative, so a row of the heatmap is the difference of two buckets."""
    series = span.series(panel)
    bounds = sorted(series, key=float)
    cumulated = np.stack([np.nan_to_num(series[bound]) for bound in bounds])
    counts = np.diff(cumulated, axis=0, prepend=0)
    edges = np.arange(len(bounds) + 1) - 0.5
    times = np.append(span.times(), span.end).astype("datetime64[s]")
    axes.pcolormesh(times, edges, np.where(counts > 0, counts, np.nan), cmap="Blues", vmin=0)
    axes.set_yticks(range(len(bounds)), [*(f"≤ {float(bound):g}" for bound in bounds[:-1]), "more"])
    _finish(axes, panel, span)


def _finish(axes: Axes, panel: Json, span: Span) -> None:
    axes.set_title(panel["title"], fontsize=10, loc="left")
    axes.set_xlim(*span.times()[[0, -1]].astype("datetime64[s]"))
    axes.xaxis.set_major_locator(locator := AutoDateLocator(maxticks=6))
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _unit(panel: Json) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _text(panel: Json, value: float) -> str:
    """A value in the panel's unit."""
    match _unit(panel):
        case "s":
            return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "bytes":
            return f"{value:.0f} MiB"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "reqps":
            return f"{value:.3g} req/s"
        case unit:
            return f"{value:.3g}" + (unit.removeprefix("suffix:") if unit.startswith("suffix:") else "")


def _color(panel: Json, value: float) -> str:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    reached = [step["color"] for step in steps if value >= (step["value"] or -math.inf)]
    return str(reached[-1]) if reached else "black"


_DRAW = {"row": _draw_row, "stat": _draw_stat, "timeseries": _draw_timeseries, "heatmap": _draw_heatmap}


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="URL of Prometheus")
    parser.add_argument("picture", type=Path, help="file to write")
    parser.add_argument("--minutes", type=float, default=30, help="how far back [%(default)g]")
    parser.add_argument("--rate-interval", default="20s", help="range of rates [%(default)s]")
    given = parser.parse_args()
    end = time.time()
    draw_board(Span(given.url, end - given.minutes * 60, end, given.rate_interval), given.picture)


if __name__ == "__main__":
    main()
