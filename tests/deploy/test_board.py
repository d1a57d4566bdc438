"""The dashboard and the rules are valid and use existing metrics."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.board import (
    Query,
    board_queries,
    exposed_names,
    names_in,
    read_board,
    read_panels,
    read_rules,
    rule_queries,
)

PANELS = {panel["title"]: panel for panel in read_panels()}
QUERIES = [*board_queries(), *rule_queries()]
RECORDED = {rule["record"] for rule in read_rules() if "record" in rule}
# Prometheus itself makes these
BUILT_IN = {"up", "ALERTS"}
# of an annotation, and read by the Prometheus data source, so not part of Grafana's own schema
DATA_SOURCE_FIELDS = {"titleFormat", "textFormat", "useValueForTime"}


def test_names_in_an_expression() -> None:
    expr = 'sum by (le) (rate(a_bucket{job="b>c"}[5m])) / on (x) d:e:f > bool 2 or vector(0) and time() - up'
    assert names_in(expr) == {"a_bucket", "d:e:f", "up"}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_queries_read_metrics_that_exist(query: Query) -> None:
    names = {name for name in names_in(query.expr) if not name.startswith("process_")}
    assert names <= exposed_names() | RECORDED | BUILT_IN


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.place)
def test_queries_read_only_this_job(query: Query) -> None:
    selectors = re.findall(r"\b(?:up|pose_\w+|process_\w+)\b(\{[^}]*\})?", query.expr)
    assert all('job="pose"' in selector for selector in selectors)


def test_every_metric_is_on_the_board_or_behind_an_alert() -> None:
    read = {re.sub(r"_(bucket|sum|count)$", "", name) for query in QUERIES for name in names_in(query.expr)}
    exposed = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed_names()}
    assert exposed <= read


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS.keys())
def test_panels_have_descriptions(panel: dict[str, Any]) -> None:
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"] and all(target["expr"] for target in panel["targets"])
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}


def test_panels_have_unique_names_and_do_not_overlap() -> None:
    panels = read_board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(PANELS) == len(read_panels())
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        assert one["x"] + one["w"] <= 24
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )


def test_the_board_can_be_linked_to() -> None:
    assert read_board()["uid"] == "pose"


def test_the_board_follows_the_published_schema() -> None:
    """Fields that are not in the schema of Grafana's library are lost when it reads and writes them."""
    plugins.register_default_plugins()
    board = read_board()
    for annotation in board["annotations"]["list"]:
        for field in DATA_SOURCE_FIELDS:
            annotation.pop(field)
    read = Dashboard.from_json(board)
    written = json.loads(JSONEncoder(sort_keys=True).encode(read))
    assert list(_lost(board, written)) == []


def _lost(given: Any, kept: Any, path: str = "board") -> list[str]:
    """The paths at which `kept` lacks or changes a value of `given`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            lost
            for key, value in given.items()
            for lost in (_lost(value, kept[key], f"{path}.{key}") if key in kept else [f"{path}.{key}"])
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            lost
            for index, pair in enumerate(zip(given, kept, strict=True))
            for lost in _lost(*pair, f"{path}[{index}]")
        ]
    return [] if given == kept else [path]


def test_alerts_have_a_summary_and_a_severity() -> None:
    for rule in read_rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["annotations"].keys() == {"summary", "description"}
