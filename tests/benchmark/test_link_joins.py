"""The benchmark ``link``: the exchanges of a step, and the figures and ratios of the two ways to make them."""

from __future__ import annotations

import math

import pytest
import torch

from alexnet_dist.benchmark.contenders import link_joins, plain_nets, torch_wire
from alexnet_dist.benchmark.contenders.link_joins import LATENCY, joins
from alexnet_dist.benchmark.rounds import OTHERS, Result, table
from alexnet_dist.benchmark.suites import link
from alexnet_dist.data.loader import row_bytes
from support.ranks import Ranks

SETTINGS = {"batch": 3, "repeats": 2, "threads": 1, "width_divisor": 16}


def test_the_papers_joins() -> None:
    by_name = {join.name: join for join in joins(plain_nets.geometry(), 32, 0, torch.float32)}
    assert by_name["conv3 forward"].sent == by_name["conv3 backward"].received == (32, 128, 13, 13)
    assert by_name["fc6 forward"].sent == (32, 128, 6, 6)
    assert by_name["fc7 backward"].sent == by_name["fc8 forward"].sent == (32, 2048)
    assert by_name["logits"].sent == by_name["logits"].received == (32, 500)
    assert by_name["pixels"].size_bytes == 16 * row_bytes(224)
    crossing = sum(join.size_bytes for name, join in by_name.items() if name not in link_joins.NOT_IN_MEMORY_STEP)
    assert crossing == 4 * 32 * (2 * (128 * 13 * 13 + 128 * 6 * 6 + 2048 + 2048) + 500)


def test_what_one_tower_sends_the_other_receives() -> None:
    for ours, theirs in zip(*(joins(plain_nets.geometry(), 5, tower, torch.float32) for tower in (0, 1)), strict=True):
        assert (ours.sent, ours.received) == (theirs.received, theirs.sent)
        assert (
            ours.size_bytes
            == theirs.size_bytes
            == max(math.prod(ours.sent), math.prod(ours.received)) * (1 if ours.dtype == torch.uint8 else 4)
        )


def measured_link() -> dict[str, float]:
    return link_joins.measure_link(**SETTINGS)


def measured_wire() -> dict[str, float]:
    return link_joins.measure_wire(**SETTINGS)


def test_every_join_is_timed_both_ways(run_ranks: Ranks) -> None:
    names = [join.name for join in joins(plain_nets.geometry(16), 3, 0, torch.float32)]
    for measure in (measured_link, measured_wire):
        first, second = run_ranks(2, measure)
        assert first == second
        assert list(first) == names
        assert min(first.values()) > 0


def measured_allreduce() -> dict[str, float]:
    return torch_wire.measure_allreduce(size_bytes=4000, repeats=2, threads=1)


def test_an_all_reduce_moves_what_a_ring_moves(run_ranks: Ranks) -> None:
    figures = run_ranks(4, measured_allreduce)
    assert figures.count(figures[0]) == 4
    seconds = figures[0]["allreduce_ms"] / 1000
    assert figures[0]["gigabytes_per_second"] == pytest.approx(4000 / seconds / 1e9)  # two replicas: 2 (2 - 1) / 2 = 1


def result(name: str, *times_us: float) -> Result:
    names = [join.name for join in joins(plain_nets.geometry(), 32, 0, torch.float32)]
    return Result(name, tuple(dict.fromkeys(names, time_us) | {OTHERS: time_us / 1000} for time_us in times_us))


def test_rows_are_joins_and_ratios_are_of_the_same_round() -> None:
    results = [result(link.LINK, 100, 200, 100), result(link.TORCH, 90, 180, 50)]
    by_name = {join.name: join for join in link.by_join(results, 32)}
    assert by_name[LATENCY].median("size_kilobytes") == 0.004
    assert by_name["conv3 forward"].median("link_us") == 100
    assert by_name["conv3 forward"].median("wire_us") == 90
    assert by_name["conv3 forward"].median("link_gigabytes_per_second") == pytest.approx(4 * 32 * 128 * 169 / 100 / 1e3)
    assert by_name["logits"].rounds[1][OTHERS] == 0.2
    assert link.ratios(results) == {"link_vs_torch": pytest.approx(0.9), "link_vs_torch_4_bytes": 0.9}


def test_our_figures_stand_without_torchs() -> None:
    missing = Result(link.TORCH, (), "fails here: no route")
    results = [result(link.LINK, 100, 200, 100), missing]
    *by_name, last = link.by_join(results, 32)
    assert last == missing
    assert {join.median("link_us") for join in by_name} == {100}
    assert {join.median("wire_us") for join in by_name} == {None}
    assert link.ratios(results) == {}
    assert "fails here: no route" in table([*by_name, last], link.COLUMNS)
