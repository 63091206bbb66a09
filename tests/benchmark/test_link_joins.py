"""The benchmark ``link``: which exchanges a step makes, and what is said of the two ways to make them."""

from __future__ import annotations

import math

import pytest
import torch

from alexnet_dist.benchmark.contenders import link_joins as joins
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders import torch_wire as wire
from alexnet_dist.benchmark.contenders.link_joins import LATENCY
from alexnet_dist.benchmark.contenders.link_joins import joins as joins_of
from alexnet_dist.benchmark.rounds import OTHERS, Entry, Row
from alexnet_dist.benchmark.suites import link as linking
from alexnet_dist.data.loader import row_bytes
from support.ranks import Ranks

SETTINGS = {"batch": 3, "repeats": 2, "threads": 1, "narrower": 16}


def test_the_papers_joins() -> None:
    found = {join.name: join for join in joins_of(nets.geometry(), 32, 0, torch.float32)}
    assert found["conv3 forward"].sent == found["conv3 backward"].received == (32, 128, 13, 13)
    assert found["fc6 forward"].sent == (32, 128, 6, 6)
    assert found["fc7 backward"].sent == found["fc8 forward"].sent == (32, 2048)
    assert found["logits"].sent == found["logits"].received == (32, 500)
    assert found["pixels"].size_bytes == 16 * row_bytes(224)
    crossing = sum(join.size_bytes for name, join in found.items() if name not in joins.NO_ACTIVATIONS)
    assert crossing == 4 * 32 * (2 * (128 * 13 * 13 + 128 * 6 * 6 + 2048 + 2048) + 500)


def test_what_one_tower_sends_the_other_receives() -> None:
    for ours, theirs in zip(*(joins_of(nets.geometry(), 5, tower, torch.float32) for tower in (0, 1)), strict=True):
        assert (ours.sent, ours.received) == (theirs.received, theirs.sent)
        assert (
            ours.size_bytes
            == theirs.size_bytes
            == max(math.prod(ours.sent), math.prod(ours.received)) * (1 if ours.dtype == torch.uint8 else 4)
        )


def measured_link() -> dict[str, float]:
    return joins.measure_link(**SETTINGS)


def measured_wire() -> dict[str, float]:
    return joins.measure_wire(**SETTINGS)


def test_every_join_is_timed_both_ways(run_ranks: Ranks) -> None:
    names = [join.name for join in joins_of(nets.geometry(16), 3, 0, torch.float32)]
    for measure in (measured_link, measured_wire):
        first, second = run_ranks(2, measure)
        assert first == second
        assert list(first) == names
        assert min(first.values()) > 0


def measured_allreduce() -> dict[str, float]:
    return wire.measure_allreduce(size_bytes=4000, repeats=2, threads=1)


def test_an_all_reduce_moves_what_a_ring_moves(run_ranks: Ranks) -> None:
    found = run_ranks(4, measured_allreduce)
    assert found.count(found[0]) == 4
    seconds = found[0]["allreduce_ms"] / 1000
    assert found[0]["gigabytes_per_second"] == pytest.approx(4000 / seconds / 1e9)  # two replicas: 2 (2 - 1) / 2 = 1


def contender(name: str, *times_us: float) -> Row:
    names = [join.name for join in joins_of(nets.geometry(), 32, 0, torch.float32)]
    return Row(Entry(name, "", {}), tuple(dict.fromkeys(names, one) | {OTHERS: one / 1000} for one in times_us))


def test_rows_are_joins_and_ratios_are_of_the_same_round() -> None:
    rows = [contender(linking.LINK, 100, 200, 100), contender(linking.WIRE, 90, 180, 50)]
    found = {row.entry.name: row for row in linking.by_join(rows, 32)}
    assert found[LATENCY].median("size_kilobytes") == 0.004
    assert found["conv3 forward"].median("link_us") == 100
    assert found["conv3 forward"].median("wire_us") == 90
    assert found["conv3 forward"].median("link_gigabytes_per_second") == pytest.approx(4 * 32 * 128 * 169 / 100 / 1e3)
    assert found["logits"].rounds[1][OTHERS] == 0.2
    assert linking.ratios(rows) == {"link_vs_torch": pytest.approx(0.9), "link_vs_torch_4_bytes": 0.9}
