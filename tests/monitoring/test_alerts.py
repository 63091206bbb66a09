"""The alerts: their rules, their cases, their runbook, and the series that they query."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from alexnet_dist.monitoring.series import PREFIX
from support.alert_rules import RULES, alerts
from support.exposition import exposed
from support.prometheus_server import MONITORING

CASES = MONITORING / "alerts_test.yml"
RUNBOOK = MONITORING.parents[1] / "docs" / "alerts.md"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def promtool(*words: str) -> tuple[int, str]:
    check = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, timeout=60)
    return check.returncode, check.stdout + check.stderr


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    code, said = promtool("check", "rules", str(RULES))
    assert (code, f"SUCCESS: {len(alerts())} rules found" in said) == (0, True), said


@needs_promtool
def test_every_alert_fires_in_its_case_and_is_silent_in_a_healthy_run() -> None:
    code, said = promtool("test", "rules", str(CASES))
    assert code == 0, said


@needs_promtool
@pytest.mark.parametrize("expression", ["vector(1)", "vector(1) > 2"], ids=["always", "never"])
@pytest.mark.parametrize("name", sorted(alerts()))
def test_the_cases_notice_an_alert_that_always_or_never_fires(name: str, expression: str, tmp_path: Path) -> None:
    rules = yaml.safe_load(RULES.read_text())
    (rule,) = [rule for rule in rules["groups"][0]["rules"] if rule["alert"] == name]
    rule["expr"] = expression
    (tmp_path / RULES.name).write_text(yaml.safe_dump(rules))
    shutil.copy(CASES, tmp_path)
    code, said = promtool("test", "rules", str(tmp_path / CASES.name))
    assert code == 1, said
    assert f"alertname: {name}," in said


def test_every_alert_has_a_runbook_and_a_severity() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert headings == list(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_alerts_query_only_series_that_ranks_show() -> None:
    named = {name for rule in alerts().values() for name in re.findall(rf"{PREFIX}\w+", rule["expr"])}
    assert len(named) > 10
    assert named <= exposed()


def test_the_cases_have_only_series_that_ranks_show() -> None:
    named = set(re.findall(rf"{PREFIX}\w+", CASES.read_text()))
    assert len(named) > 10
    assert named <= exposed()
