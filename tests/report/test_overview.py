"""Where runs stand and where their time goes, as drawn: durations, and the phases of the ranks that answer."""

from __future__ import annotations

import math
import re

import pytest

from alexnet_dist.report.overview import PHASE_COLOURS, duration, error_text, phases_by_rank
from alexnet_dist.report.ranks import RankMetrics, Ranks


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.4, "0 min 5 s"),
        (3599.6, "1 h 0 min"),
        (7260.0, "2 h 1 min"),
        (86400.0 * 6 + 3700, "6 d 1 h"),
        (math.nan, "–"),
    ],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_error_is_a_percentage() -> None:
    assert error_text(0.40712) == "40.71 %"
    assert error_text(math.nan) == "–"


def rank(number: int, steps: float, slow: float = 1.0) -> RankMetrics:
    """Return the metrics of a rank whose steps take 0.1 s in each of two phases, times a factor."""
    phase_s = dict.fromkeys(PHASE_COLOURS, 0.0) | {"forward": 0.1 * steps * slow, "data_wait": 0.1 * steps * slow}
    return RankMetrics(
        number, "node-<a>", "torch 2", steps, phase_s, {"bad_samples_total": 2.0, "skipped_batches_total": 0.0}
    )


def test_the_slow_rank_is_seen() -> None:
    drawn = phases_by_rank("run", Ranks([rank(0, 10), rank(1, 10, 1.5), rank(2, 0)], ["host:9413"]))
    assert re.findall(r">(rank \d)</text>", drawn) == ["rank 0", "rank 1"]  # the last has made no step
    assert re.findall(r">([\d.]+ ms)</text>", drawn) == ["200.0 ms", "300.0 ms"]
    assert drawn.count('class="key"') == 2
    assert "No metrics from host:9413." in drawn
    assert "bad samples: 6, skipped batches: 0. 3 ranks on node-" in drawn  # and nothing that was not counted
    assert "node-&lt;a&gt;" in drawn


def test_ranks_that_say_nothing() -> None:
    assert "No rank answers." in phases_by_rank("run", Ranks([], ["host:9410"]))
    assert "No rank has finished a step yet." in phases_by_rank("run", Ranks([rank(0, 0)], []))
    assert "5 more ranks are not shown" in phases_by_rank("run", Ranks([rank(0, 1)], [], 5))
    assert "no targets" in phases_by_rank("run", "no targets")
