"""The dashboard as a file: what the code writes, of Grafana's schema, with units, thresholds and reasons everywhere."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import yaml

from alexnet_dist.monitoring.series import LABELS, PREFIX
from support.exposition import exposed
from support.grafana_schema import schema_departures
from support.prometheus_server import CUDA_ONLY, MONITORING, dashboard

KNOWN_LABELS = {*LABELS, "phase", "join", "node", "direction", "reason", "op", "le", "kind"}
ROWS = [
    "Overview", "Throughput", "Step", "Stragglers", "Link", "Optimisation", "Data", "Resources",
    "Checkpoints and faults",
]  # fmt: skip


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard without the titles of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def steps(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the thresholds of a panel, the first of which is the base colour."""
    found: list[dict[str, Any]] = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return found


def test_the_committed_dashboard_is_what_the_code_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(MONITORING)  # as Python does for a script
    model = runpy.run_path(str(MONITORING / "dashboard.py"))["dashboard"]()
    assert (MONITORING / "dashboard.json").read_text() == json.dumps(model, indent=1) + "\n", (
        "run: python launch/monitoring/dashboard.py"
    )


def test_the_dashboard_names_only_series_that_ranks_show() -> None:
    named = set(re.findall(rf"(?:{PREFIX}|process_)\w+", json.dumps([panel["targets"] for panel in panels()])))
    assert len(named) > 30
    assert named <= exposed() | {PREFIX + name for name in CUDA_ONLY.values()}
    assert not exposed() & {PREFIX + name for name in CUDA_ONLY.values()}


def test_the_panels_without_data_on_a_cpu_say_so() -> None:
    assert {panel["title"] for panel in panels() if panel["description"].startswith("CUDA only.")} == CUDA_ONLY.keys()
    for title, name in CUDA_ONLY.items():
        assert PREFIX + name in titled(dashboard(), title)["targets"][0]["expr"]


def test_rows_are_in_the_order_in_which_a_run_is_looked_at() -> None:
    assert [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"] == ROWS


def test_panels_have_a_position_an_id_a_data_source_and_legends_of_labels_that_exist() -> None:
    all_panels = dashboard()["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in all_panels if panel["title"] not in ROWS}) == len(panels())
    positions = [panel["gridPos"] for panel in all_panels]
    for position in positions:
        assert position["x"] >= 0
        assert position["x"] + position["w"] <= 24
    for left, right in combinations(positions, 2):
        assert (
            left["x"] + left["w"] <= right["x"] or right["x"] + right["w"] <= left["x"]
            or left["y"] + left["h"] <= right["y"] or right["y"] + right["h"] <= left["y"]
        ), (left, right)  # fmt: skip
    for panel in panels():
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= KNOWN_LABELS


def test_every_variable_is_declared_and_every_filter_offered() -> None:
    model = dashboard()
    declared = {variable["name"] for variable in model["templating"]["list"]}
    assert declared >= {"datasource", "run", "node", "replica", "tower", "rank", "paper"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(model))) - {"__rate_interval", "__all"}
    assert used == declared


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_has_a_unit_and_thresholds_or_the_reason_why_it_has_none(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    said = panel["description"]
    base, *colours = steps(panel)
    assert base["value"] is None
    if colours:
        assert "No threshold" not in said
        for colour in {base["color"], *(step["color"] for step in colours)} - {"green"}:
            assert f"{colour} " in said.lower(), f"the description does not say when it is {colour}"
        assert [step["value"] for step in colours] == sorted(step["value"] for step in colours)
    else:
        assert re.search(r"No threshold: \w+", said)
    if panel["type"] == "timeseries":
        assert ("thresholdsStyle" in panel["fieldConfig"]["defaults"]["custom"]) == bool(colours)


def test_thresholds_are_those_of_the_alerts_that_panels_name() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    expressions = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    compared = set()
    for panel in panels():
        sentences = re.findall(r"alerts? [A-Z]\w+(?: and [A-Z]\w+)?", panel["description"])
        named = re.findall(r"\b[A-Z]\w+", " ".join(sentences))
        assert set(named) <= expressions.keys()
        colours = [step["color"] for step in steps(panel)]
        if "red" not in colours:
            continue
        limit = steps(panel)[colours.index("red") or 1]["value"]
        for name in named if limit != 1 else ():  # from 1 on, something has happened at all
            numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", expressions[name])
            assert limit in map(float, numbers), (panel["title"], limit, expressions[name])
            compared.add(name)
    assert compared == {
        "TrainingStalled", "DataStarvation", "Straggler", "RestartLoop", "BadSamples", "CheckpointTooOld",
        "DiskFilling",
    }  # fmt: skip


def test_it_is_of_grafanas_published_schema() -> None:
    assert schema_departures(dashboard()) == []


def titled(model: dict[str, Any], title: str) -> Any:
    """Return the panel of a title."""
    (panel,) = [panel for panel in model["panels"] if panel["title"] == title]
    return panel


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a key of a query": (lambda model: titled(model, "Loss")["targets"][0].update(legend="x"), "unknown key legend"),
    "no expression": (lambda model: titled(model, "Loss")["targets"][0].pop("expr"), "no expr"),
    "a type": (lambda model: titled(model, "Loss")["gridPos"].update(w="8"), "'8' is no int"),
    "an option": (lambda model: titled(model, "Restarts")["options"].update(textMode="both"), "'both' is none of auto"),
    "no options": (lambda model: titled(model, "Restarts").update(options={}), "no reduceOptions"),
    "an option of curves": (
        lambda model: titled(model, "Loss")["fieldConfig"]["defaults"]["custom"].update(opacity=1),
        "unknown key opacity",
    ),
    "an override": (
        lambda model: titled(model, "Error")["fieldConfig"]["overrides"][0]["properties"][0].update(id="custom.fill"),
        "custom.fill, which is unknown",
    ),
    "a unit": (lambda model: titled(model, "Loss")["fieldConfig"]["defaults"].update(unit="sec"), "unknown unit 'sec'"),
    "a threshold": (lambda model: steps(titled(model, "Restarts"))[1].update(value="1"), "'1' is no float"),
    "a variable": (lambda model: model["templating"]["list"][1].update(type="label"), "'label' is none of query"),
    "a row": (lambda model: titled(model, "Link").update(folded=True), "unknown key folded"),
    "the whole": (lambda model: model.pop("schemaVersion"), "no schemaVersion"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_schema_notices(mistake: str) -> None:
    change, said = MISTAKES[mistake]
    model = dashboard()
    change(model)
    assert said in "\n".join(schema_departures(model))
