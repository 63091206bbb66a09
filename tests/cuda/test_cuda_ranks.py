"""Ranks on CUDA devices compute the oracle: one device a rank over NCCL, or two ranks on one device."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from alexnet_dist.distributed.topology import NCCL_MULTI_RANK, Layout, resolve_topology
from alexnet_dist.system.environment import LaunchInfo
from alexnet_dist.training.optim import Rule
from support.ranks import Ranks
from support.wirings import LARS, Case, Outcome, errors, on_rank, oracles

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"
ONE_DEVICE = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
CASES = [
    Case(device=DEVICE),
    Case(device=DEVICE, global_batch=13, accumulate=2),
    Case(device=DEVICE, memory_format=torch.channels_last),
    Case(device=DEVICE, rule=LARS),
]
# Rounding: the convolutions and matrix products of a device sum in another order than those of the CPU.
TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def oracle() -> dict[tuple[int, Rule], Outcome]:
    """Return the outcomes of one process on the CPU."""
    return oracles()


def assert_oracle(outcomes: list[list[Outcome]], cases: list[Case], oracle: dict[tuple[int, Rule], Outcome]) -> None:
    for rank_outcomes in outcomes:
        for case, outcome in zip(cases, rank_outcomes, strict=True):
            assert max(errors(outcome, oracle[case.global_batch, case.rule])) <= TOLERANCE, case


def device_of_a_single_rank() -> tuple[str, bool]:
    """Return the device of a run of one process, and whether resolving it has initialised CUDA."""
    alone = LaunchInfo(rank=0, world_size=1, local_rank=0, local_world_size=1, under_torchrun=False)
    topology = resolve_topology("fused", DEVICE, alone)
    return str(topology.device), torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def test_a_topology_is_resolved_without_cuda_which_a_fork_would_copy(run_ranks: Ranks) -> None:
    assert run_ranks(1, device_of_a_single_rank) == [("cuda:0", False)]


def test_one_rank_is_the_oracle(oracle: dict[tuple[int, Rule], Outcome], run_ranks: Ranks) -> None:
    cases = [replace(case, layout="fused") for case in CASES]
    assert_oracle(run_ranks(1, on_rank, cases, {}, "nccl"), cases, oracle)


@pytest.mark.parametrize(("ranks", "layout"), [(2, "paired"), (2, "fused"), (4, "paired")])
def test_ranks_with_a_device_each_are_the_oracle(
    ranks: int, layout: Layout, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Ranks
) -> None:
    """Exchange, gather and sums over NCCL."""
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices; this machine has {torch.cuda.device_count()}")
    cases = [replace(case, layout=layout) for case in CASES]
    assert_oracle(run_ranks(ranks, on_rank, cases, {}, "nccl"), cases, oracle)


@pytest.mark.parametrize(("ranks", "layout"), [(2, "paired"), (2, "fused"), (4, "paired")])
def test_ranks_that_share_a_device_are_the_oracle(
    ranks: int, layout: Layout, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Ranks
) -> None:
    """Exchanges through host memory, sums by gloo."""
    cases = [replace(case, layout=layout, link="staged") for case in CASES]
    assert_oracle(run_ranks(ranks, on_rank, cases, ONE_DEVICE, "gloo"), cases, oracle)


def test_a_pair_that_shares_a_device_over_nccl_is_the_oracle(
    oracle: dict[tuple[int, Rule], Outcome], run_ranks: Ranks
) -> None:
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    if version < NCCL_MULTI_RANK:
        pytest.skip(f"needs NCCL {NCCL_MULTI_RANK}; this is {version}")
    environment = ONE_DEVICE | {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}
    assert_oracle(run_ranks(2, on_rank, CASES, environment, "nccl"), CASES, oracle)
