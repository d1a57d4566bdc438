"""The documents describe every metric, panel, alert and setting of the deployment, and no other."""

import re

import pytest

from tests.deploy.board import exposed_names, names_in, read_panels, read_rules, rule_queries
from tests.support.service import ROOT

MONITORING = (ROOT / "docs" / "monitoring.md").read_text()
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
METRICS = sorted({re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed_names()})
ALERTS = [rule["alert"] for rule in read_rules() if "alert" in rule]


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_documented(metric: str) -> None:
    assert f"| `{metric}` |" in MONITORING


@pytest.mark.parametrize("panel", read_panels(), ids=lambda panel: panel["title"])
def test_panels_are_documented(panel: dict[str, str]) -> None:
    assert f"| {panel['title']} |" in MONITORING


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts_have_a_section_that_says_what_to_do(alert: str) -> None:
    section = MONITORING.partition(f"### {alert}\n")[2].partition("\n### ")[0]
    assert "**Means.**" in section and "**Do.**" in section


def test_process_metrics_behind_alerts_are_documented() -> None:
    names = {name for query in rule_queries() for name in names_in(query.expr)}
    assert all(f"`{name}`" in MONITORING for name in names if name.startswith(("process_", "pose:")))


def test_only_existing_metrics_and_alerts_are_documented() -> None:
    named = set(re.findall(r"^\| `(pose_\w+)` \|", MONITORING, re.MULTILINE))
    sections = re.findall(r"^### (Pose\w+)$", MONITORING, re.MULTILINE)
    assert named == set(METRICS)
    assert sections == ALERTS


def test_settings_of_compose_are_documented() -> None:
    compose = "".join((ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.gpu.yml"))
    settings = re.findall(r"\$\{(\w+):-([^}]+)\}", compose)
    assert settings
    assert all(f"| `{name}` |" in DEPLOYMENT and f"`{default}`" in DEPLOYMENT for name, default in settings)
