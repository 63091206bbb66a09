"""The two wirings and any number of replicas compute one function: logits, every gradient, the weights after steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alexnet_dist.distributed import topology
from alexnet_dist.training.optim import Rule
from support.nets import SMALL
from support.wirings import (
    LARS,
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
    Case(global_batch=13, line="blocking"),
    Case(accumulate=3, line="blocking"),
    Case(line="staged"),
    Case(rule=LARS),
]


@pytest.mark.parametrize(
    ("world_size", "layout"), [(2, "paired"), (4, "paired"), (6, "paired"), (1, "fused"), (2, "fused"), (3, "fused")]
)
def test_every_wiring_computes_the_oracle(
    world_size: int, layout: topology.Layout, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Any
) -> None:
    cases = [replace(case, layout=layout) for case in CASES]
    for outcomes in run_ranks(world_size, on_rank, cases):
        for case, found in zip(cases, outcomes, strict=True):
            assert set(found.gradients[min(found.gradients)]) == {
                f"{n}.{k}" for n in SMALL.layers for k in ("weight", "bias")
            }
            logits, gradients, weights = errors(found, oracle[case.global_batch, case.rule])
            assert logits <= 1e-12, case
            assert gradients <= 1e-12, case
            assert weights <= 1e-10, case


@pytest.mark.parametrize(
    "mutant", ["logits joined like a hidden layer", "LRN across towers", "dropout mask depends on the rank"]
)
def test_the_comparison_sees_a_mutant(mutant: str, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Any) -> None:
    worst = [errors(found, oracle[12, RULE]) for (found,) in run_ranks(2, on_rank, [Case(mutant=mutant)])]
    logits, gradients, weights = (max(column) for column in zip(*worst, strict=True))
    assert gradients > 1e-3
    assert weights > 1e-3
    if mutant == "logits joined like a hidden layer":
        assert logits <= 1e-12  # the loss does not show it: every gradient is doubled
        assert gradients == pytest.approx(1.0)
