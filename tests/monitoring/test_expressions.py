"""What expressions of the dashboard compute: on synthetic series, by promtool."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alexnet_dist.monitoring.series import PREFIX
from support.prometheus_server import MONITORING, dashboard, substituted
from support.promtool import evaluated, needs_promtool

ROOT = MONITORING.parents[1]
RUN_145 = yaml.safe_load((ROOT / "configs" / "source2012.yaml").read_text())["run"]


def expressions(title: str) -> dict[str, str]:
    """Return the expressions of a panel by legend."""
    (panel,) = [panel for panel in dashboard()["panels"] if panel["title"] == title]
    return {target["legendFormat"]: target["expr"] for target in panel["targets"]}


@needs_promtool
def test_series_of_a_process_name_the_rank_of_the_same_scrape(tmp_path: Path) -> None:
    series = []
    for rank, instance in ((0, "a:9410"), (1, "b:9410")):  # not the address tells ranks apart, but their own labels
        scraped = f'job="alexnet", instance="{instance}", node="host"'
        labels = f'{scraped}, run="mine", rank="{rank}", replica="0", tower="{rank}"'
        series += [
            {"series": f"{PREFIX}world_size{{{labels}}}", "values": "2x60"},
            {"series": f"process_cpu_seconds_total{{{scraped}}}", "values": f"0+{0.5 + rank}x60"},
            {"series": f"process_resident_memory_bytes{{{scraped}}}", "values": f"{rank + 1}000x60"},
            {"series": f"process_open_fds{{{scraped}}}", "values": f"{rank + 1}0x60"},
            {"series": f"process_max_fds{{{scraped}}}", "values": "40x60"},
        ]
    # Prometheus itself, say, and a process that is no rank.
    for scraped in ('job="prometheus", instance="c:9090"', 'job="alexnet", instance="d:9410"'):
        series.append({"series": f"process_resident_memory_bytes{{{scraped}}}", "values": "7x60"})
    expected = {
        substituted(expression, job="alexnet"): {
            f'job="alexnet", instance="{"ab"[rank]}:9410", node="host", run="mine", rank="{rank}", replica="0",'
            f' tower="{rank}"': value
            for rank, value in enumerate(values)
        }
        for title, values in {
            "CPU by rank": (0.5, 1.5), "Memory by rank": (1000, 2000), "Open descriptors by rank": (0.25, 0.5)
        }.items()
        for expression in expressions(title).values()
    }  # fmt: skip
    assert evaluated(tmp_path, series, expected) == ""


@needs_promtool
def test_the_learning_rate_of_the_source_is_lowered_at_the_epochs_of_its_log(tmp_path: Path) -> None:
    lowered = [(event["epoch"], event["learning_rate"]) for event in RUN_145["events"] if "learning_rate" in event]
    assert len(lowered) == 3
    schedule = [(0, 0.01), *lowered]
    epochs = [epoch for epoch, _ in schedule] + [epoch - 0.01 for epoch, _ in lowered] + [RUN_145["epochs"]]
    series, values = [], {}
    for index, epoch in enumerate(epochs):
        series.append({"series": f'{PREFIX}epoch{{job="alexnet", run="{index}"}}', "values": f"{epoch}x60"})
        values[f'run="{index}"'] = next(rate for start, rate in reversed(schedule) if epoch >= start)
    overlay = expressions("Learning rate")["{{run}} in the source's log"]
    assert evaluated(tmp_path, series, {substituted(overlay, paper="2012"): values}, digits=6) == ""
    assert evaluated(tmp_path, series, {substituted(overlay, paper="0"): {}}, digits=6) == ""
    # On the set of 2010 it was lowered at 23, 51 and 78.
    series = [
        {"series": f'{PREFIX}epoch{{job="alexnet", run="{epoch}"}}', "values": f"{epoch}x60"}
        for epoch in (24, 60, 78.5)
    ]
    values = {'run="24"': 0.001, 'run="60"': 0.0001, 'run="78.5"': 0.00001}
    assert evaluated(tmp_path, series, {substituted(overlay, paper="2010"): values}, digits=6) == ""


@needs_promtool
@pytest.mark.parametrize("year", ["2012", "2010", "0"])
def test_the_bands_are_the_errors_of_the_log(year: str, tmp_path: Path) -> None:
    # Top-1 and top-5 over ten views, then on the centre view.
    ends = {"0": (), "2010": (37.47, 17.00, 39.02, 18.30), "2012": (40.66, 18.21, 42.34, 19.58)}[year]
    described = "".join((ROOT / name).read_text() for name in ("PAPER.md", "configs/source2013_hands_off.yaml"))
    assert all(f"{percent:.2f}" in described for percent in ends)
    bands = expressions("Error")
    names = [f"paper's net, {top}, {view}" for view in ("ten views", "centre view") for top in ("top-1", "top-5")]
    expected = {
        substituted(bands[name], paper=year): {"": ends[index] / 100} if ends else {}
        for index, name in enumerate(names)
    }
    assert evaluated(tmp_path, [], expected, digits=5) == ""


def test_a_band_is_filled_down_to_its_lower_edge() -> None:
    (panel,) = [panel for panel in dashboard()["panels"] if panel["title"] == "Error"]
    filled = {
        override["matcher"]["options"]: changed["value"]
        for override in panel["fieldConfig"]["overrides"]
        for changed in override["properties"]
        if changed["id"] == "custom.fillBelowTo"
    }
    assert filled == {
        f"paper's net, {top}, centre view": f"paper's net, {top}, ten views" for top in ("top-1", "top-5")
    }
    assert {*filled, *filled.values()} <= expressions("Error").keys()
