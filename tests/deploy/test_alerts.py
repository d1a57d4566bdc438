"""The cases of rules_test.yml, in which alerts fire or do not, run by promtool."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.board import read_rules
from tests.deploy.prometheus import MISSING, PROMTOOL

CASES = Path(__file__).parent / "rules_test.yml"


@pytest.mark.skipif(PROMTOOL is None, reason=MISSING.format("promtool"))
def test_alerts_fire_at_their_thresholds() -> None:
    done = subprocess.run([str(PROMTOOL), "test", "rules", CASES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    fires: dict[str, set[bool]] = {rule["alert"]: set() for rule in read_rules() if "alert" in rule}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            fires[check["alertname"]].add(bool(check["exp_alerts"]))
    assert {alert for alert, seen in fires.items() if seen != {True, False}} == set()
