"""The two wirings and any number of replicas compute one function: logits, every gradient, the weights after steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alexnet_dist.distributed.topology import Layout
from alexnet_dist.training.optim import Rule
from support.nets import SMALL
from support.ranks import Ranks
from support.wirings import (
    DROPOUT_MUTANT,
    LARS,
    LOGITS_MUTANT,
    NORM_MUTANT,
    RULE,
    Case,
    Outcome,
    errors,
    on_rank,
    oracles,
)


@pytest.fixture(scope="module")
def oracle() -> dict[tuple[int, Rule], Outcome]:
    return oracles()


CASES = [
    Case(),
    Case(global_batch=13),
    Case(accumulate=3),
    Case(global_batch=13, accumulate=2),
    Case(global_batch=13, link="blocking"),
    Case(accumulate=3, link="blocking"),
    Case(link="staged"),
    Case(rule=LARS),
]
MERGED = [
    Case(merged=True),
    Case(merged=True, global_batch=13, accumulate=2),
    Case(merged=True, memory_format=torch.channels_last),
    Case(merged=True, rule=LARS),
]


@pytest.mark.parametrize(
    ("world_size", "layout"), [(2, "paired"), (4, "paired"), (6, "paired"), (1, "fused"), (2, "fused"), (3, "fused")]
)
def test_every_wiring_computes_the_oracle(
    world_size: int, layout: Layout, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Ranks
) -> None:
    cases = [replace(case, layout=layout) for case in CASES + (MERGED if layout == "fused" else [])]
    names = {f"{layer}.{kind}" for layer in SMALL.layers for kind in ("weight", "bias")}
    for outcomes in run_ranks(world_size, on_rank, cases):
        for case, outcome in zip(cases, outcomes, strict=True):
            assert set(outcome.gradients[min(outcome.gradients)]) == names
            logits, gradients, weights = errors(outcome, oracle[case.global_batch, case.rule])
            assert logits <= 1e-12, case
            assert gradients <= 1e-12, case
            assert weights <= 1e-10, case


@pytest.mark.parametrize("mutant", [LOGITS_MUTANT, NORM_MUTANT, DROPOUT_MUTANT])
def test_the_comparison_sees_a_mutant(mutant: str, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Ranks) -> None:
    errors_by_rank = [errors(outcome, oracle[12, RULE]) for (outcome,) in run_ranks(2, on_rank, [Case(mutant=mutant)])]
    logits, gradients, weights = (max(column) for column in zip(*errors_by_rank, strict=True))
    assert gradients > 1e-3
    assert weights > 1e-3
    if mutant == LOGITS_MUTANT:
        assert logits <= 1e-12  # the loss does not show it: every gradient is doubled
        assert gradients == pytest.approx(1.0)
