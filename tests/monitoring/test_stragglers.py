"""A rank that computes slower than the others, though all steps take equally long: the dashboard names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.monitoring.series import PREFIX
from alexnet_dist.monitoring.timeline import PHASES
from support.prometheus_server import dashboard, dashboard_queries
from support.promtool import evaluated, needs_promtool

# Seconds a step of each phase, of a rank and of one whose device is 30 % slower.
USUAL = {"forward": 0.2, "backward": 0.3, "optimizer": 0.1, "data_wait": 0.05, "link_wait": 0.1, "allreduce_wait": 0.15}
SLOW = {
    "forward": 0.26,
    "backward": 0.39,
    "optimizer": 0.13,
    "data_wait": 0.05,
    "link_wait": 0.03,
    "allreduce_wait": 0.04,
}
NAMES = [
    f'run="mine", node="node-{rank // 2}", replica="{rank // 2}", tower="{rank % 2}", rank="{rank}"'
    for rank in range(4)
]


def panel(title: str) -> str:
    """Return the expression of a panel with one, for all ranks."""
    (query,) = [query for query in dashboard_queries(dashboard()) if query.panel == title]
    return query.expression


def synthetic(slow: int) -> list[dict[str, Any]]:
    """Return what four ranks show that make a step a second for a minute, one of which is slow."""
    series = []
    for rank, names in enumerate(NAMES):
        series.append({"series": f'{PREFIX}steps_total{{job="alexnet", {names}}}', "values": "0+1x60"})
        for phase, seconds in (SLOW if rank == slow else USUAL).items():
            name = f'{PREFIX}phase_seconds_total{{job="alexnet", {names}, phase="{phase}"}}'
            series.append({"series": name, "values": f"0+{seconds}x60"})
    return series


@needs_promtool
@pytest.mark.parametrize("slow", range(4))
def test_the_rank_that_computes_longer_is_named(slow: int, tmp_path: Path) -> None:
    assert sum(USUAL.values()) == pytest.approx(sum(SLOW.values()))  # the duration of a step does not tell them apart
    assert USUAL.keys() | {"graph", "other"} == set(PHASES)
    expected = {
        panel("Own compute by rank"): {names: 0.78 if rank == slow else 0.6 for rank, names in enumerate(NAMES)},
        panel("Own compute, relative to the median rank"): {
            names: 1.3 if rank == slow else 1.0 for rank, names in enumerate(NAMES)
        },
        panel("Slowest rank"): {NAMES[slow]: 1.3},
    }
    assert evaluated(tmp_path, synthetic(slow), expected) == ""
    other = {panel("Slowest rank"): {NAMES[(slow + 1) % 4]: 1.3}}
    assert "FAILED" in evaluated(tmp_path, synthetic(slow), other)
