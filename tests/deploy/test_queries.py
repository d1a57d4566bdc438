"""Every query of the dashboard and the rules, with a Prometheus that scrapes a loaded service."""

import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.deploy.board import Query, board_queries, rule_queries
from tests.deploy.load import Load
from tests.deploy.prometheus import MISSING, PROMETHEUS, Prometheus
from tests.support.service import ROOT, Service

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason=MISSING.format("prometheus"))
PATIENCE_S = 120  # of a machine that is busy with other things


@pytest.fixture(scope="module")
def load(networks: dict[bool, Path], photo: bytes) -> Iterator[Load]:
    service = Service(weights=networks[False])
    load = Load(service, photo)
    yield load
    load.close()
    service.close()


@pytest.fixture(scope="module")
def prometheus(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(load.service, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


def test_every_query_has_data(prometheus: Prometheus, load: Load) -> None:
    pending = [*board_queries(), *rule_queries()]
    deadline = time.monotonic() + PATIENCE_S
    while pending and time.monotonic() < deadline:
        load.round()
        pending = [query for query in pending if not _has_data(query, prometheus.query(query.expr))]
    assert pending == []
    assert {rule["health"] for rule in prometheus.rules()} == {"ok"}


def test_latencies_lead_to_traces(prometheus: Prometheus, load: Load) -> None:
    deadline = time.monotonic() + PATIENCE_S
    series = 'pose_request_seconds_bucket{api=~"rest|grpc"}'  # frames of streams are not logged one by one
    while not (found := prometheus.exemplars(series)) and time.monotonic() < deadline:
        load.round()
    logged = {line.get("trace_id") for line in load.service.log}
    assert found and {exemplar["labels"]["trace_id"] for exemplar in found} <= logged


def _has_data(query: Query, result: list[dict[str, Any]]) -> bool:
    """Fails unless there are series, one is a number, and all have the labels of their legend."""
    labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert all(labels <= series["metric"].keys() for series in result), query
    return any(math.isfinite(float(series["value"][1])) for series in result)


def test_the_board_can_be_drawn(prometheus: Prometheus, load: Load, tmp_path: Path) -> None:
    load.round()
    picture = tmp_path / "board.png"
    script = ROOT / "docker" / "render_board.py"
    subprocess.run([sys.executable, script, prometheus.url, picture, "--minutes", "1"], check=True)
    pixels = cv2.imread(str(picture))
    assert pixels is not None and min(pixels.shape[:2]) > 1000
    assert pixels.std() > 10
