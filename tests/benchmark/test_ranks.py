"""Contenders of several processes, under torchrun as a benchmark starts them."""

from __future__ import annotations

import pytest
import torch

from alexnet_dist.benchmark import devices, rounds
from alexnet_dist.benchmark.contenders import link_joins, ranks
from alexnet_dist.benchmark.contenders.plain_nets import geometry
from alexnet_dist.benchmark.rounds import OTHERS, Contender
from alexnet_dist.errors import RunError, UserError

LINK = {"batch": 2, "repeats": 2, "threads": 1, "width_divisor": 16}


def test_ranks_print_their_figures_once() -> None:
    settings = {"task": "rank_link", "ranks": 2, "settings": LINK}
    figures = rounds.run_alone(Contender("link", "ranks", settings))
    assert list(figures) == [*(join.name for join in link_joins.joins(geometry(16), 2, 0, torch.float32)), OTHERS]


def test_a_rank_that_fails_is_reported_with_its_own_message() -> None:
    with pytest.raises(RunError, match=r"1 ranks of no such task failed:\n(.*\n)*KeyError: 'no such task'"):
        ranks.measure("no such task", 1, {})


def test_missing_devices_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    devices.check_devices("cpu", 2)
    devices.check_devices("cuda", 1)
    with pytest.raises(UserError, match=r"--device cuda: torch finds 1 CUDA devices; expected at least 2"):
        devices.check_devices("cuda", 2)
