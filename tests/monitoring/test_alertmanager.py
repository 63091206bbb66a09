"""alertmanager.yml: checked as a file, and by a real Alertmanager that is told of alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from support.alert_rules import alerts
from support.alertmanager import CONFIG, FIRING, RESOLVED, alertmanager, webhook
from support.prometheus_server import MONITORING


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed (Debian: prometheus-alertmanager)")
def test_amtool_accepts_alertmanager_yml() -> None:
    check = subprocess.run(["amtool", "check-config", str(CONFIG)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "2 inhibit rules\n - 2 receivers" in check.stdout


def test_inhibitions_name_alerts_that_exist() -> None:
    rules = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    matchers = [matcher for rule in rules for side in ("source_matchers", "target_matchers") for matcher in rule[side]]
    named = {name for matcher in matchers for name in re.findall(r"[A-Z]\w+", matcher)}
    assert len(named) > 4
    assert named <= alerts().keys()


def test_prometheus_yml_names_the_address_at_which_alertmanager_yml_says_to_listen() -> None:
    (found,) = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["alerting"]["alertmanagers"]
    assert [f"--web.listen-address={target}" for target in found["static_configs"][0]["targets"]] == re.findall(
        r"--web\.listen-address=\S+", CONFIG.read_text()
    )


def post(address: str, *names_and_runs: tuple[str, str]) -> None:
    """Tell Alertmanager that alerts of runs fire, as Prometheus does."""
    alert_list = [{"labels": {"alertname": name, "run": run}} for name, run in names_and_runs]
    body, kind = json.dumps(alert_list).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}/api/v2/alerts", body, kind)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()


def test_what_follows_from_another_alert_of_its_run_is_not_sent(tmp_path: Path) -> None:
    with webhook() as hook, alertmanager(tmp_path / "alertmanager", hook.url) as address:
        post(address, ("AllRanksGone", "mine"))
        hook.wait_for(FIRING, "mine", ["AllRanksGone"], 30)
        post(address, ("RankTargetDown", "mine"), ("TrainingStalled", "mine"), ("RankTargetDown", "other"))
        post(address, ("BadSamples", "mine"))  # in a later message than those, if they were sent
        hook.wait_for(FIRING, "mine", ["BadSamples"], 30)
        hook.wait_for(FIRING, "other", ["RankTargetDown"], 30)
        assert hook.told(FIRING, "mine").keys() == {"AllRanksGone", "BadSamples"}
        assert not hook.told(RESOLVED, "mine")
