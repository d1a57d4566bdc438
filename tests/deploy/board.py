"""The Prometheus queries of the dashboard and the rules."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from prometheus_client import Counter, Gauge, Histogram, Info

from service.observability import metrics
from tests.support.service import ROOT

BOARD = ROOT / "docker" / "grafana" / "dashboards" / "pose.json"
RULES = ROOT / "docker" / "prometheus" / "rules.yml"
_SAMPLES = {
    Counter: ("_total",),
    Gauge: ("",),
    Histogram: ("_bucket", "_sum", "_count"),
    Info: ("_info",),
}
_WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "bool", "offset"}


@dataclass(frozen=True)
class Query:
    """An expression that must return data. legend: template of a series' name, with {{labels}}."""

    place: str
    expr: str
    legend: str = ""


def read_board() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    board: dict[str, Any] = json.loads(BOARD.read_text())
    return board


def read_panels() -> list[dict[str, Any]]:
    """The panels without the headings of rows."""
    return [panel for panel in read_board()["panels"] if panel["type"] != "row"]


def read_rules() -> list[dict[str, Any]]:
    """Recorded series and alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def board_queries() -> Iterator[Query]:
    """The queries of panels and annotations, with Grafana's variable filled in."""
    for panel in read_panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "20s")
            yield Query(panel["title"], expr, target["legendFormat"])
    for annotation in read_board()["annotations"]["list"]:
        yield Query(annotation["name"], annotation["expr"], annotation["textFormat"])


def rule_queries() -> Iterator[Query]:
    """The rules' expressions; those of alerts return true or false for every series."""
    for rule in read_rules():
        if "record" in rule:
            yield Query(rule["record"], rule["expr"])
        else:
            yield Query(rule["alert"], re.sub(r"==|>|<", r"\g<0> bool", rule["expr"]))


def names_in(expr: str) -> set[str]:
    """The names of the series that an expression reads."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on|without|ignoring)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?![\w:]*\s*\()", bare)
    return set(words) - _WORDS


def exposed_names() -> set[str]:
    """The names of the series of the service's metrics."""
    return {
        family.name + suffix
        for metric in vars(metrics).values()
        for kind, suffixes in _SAMPLES.items()
        if isinstance(metric, kind)
        for family in metric.describe()
        for suffix in suffixes
    }
