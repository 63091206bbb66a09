"""Ranks on CUDA devices compute the oracle: a device each over NCCL, or two on one device."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from alexnet_dist.distributed import topology
from alexnet_dist.distributed.topology import NCCL_MULTI_RANK
from alexnet_dist.process import LaunchInfo
from alexnet_dist.training.optim import Rule
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
# Of another order of the same sums: the devices' convolutions and matrix products are not the host's.
CLOSE = 1e-10


@pytest.fixture(scope="module")
def oracle() -> dict[tuple[int, Rule], Outcome]:
    """One process on the CPU."""
    return oracles()


def assert_oracle(outcomes: list[list[Outcome]], cases: list[Case], oracle: dict[tuple[int, Rule], Outcome]) -> None:
    for of_rank in outcomes:
        for case, found in zip(cases, of_rank, strict=True):
            assert max(errors(found, oracle[case.global_batch, case.rule])) <= CLOSE, case


def place_of_a_single_rank() -> tuple[str, bool]:
    """Return where a run of one process would be, and whether finding that out has brought CUDA up."""
    alone = LaunchInfo(rank=0, world_size=1, local_rank=0, local_world_size=1, under_torchrun=False)
    place = topology.place("fused", DEVICE, alone)
    return str(place.device), torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def test_a_place_is_found_without_cuda_which_a_fork_would_copy(run_ranks: Any) -> None:
    assert run_ranks(1, place_of_a_single_rank) == [("cuda:0", False)]


def test_one_rank_is_the_oracle(oracle: dict[tuple[int, Rule], Outcome], run_ranks: Any) -> None:
    cases = [replace(case, layout="fused") for case in CASES]
    assert_oracle(run_ranks(1, on_rank, cases, {}, "nccl"), cases, oracle)


@pytest.mark.parametrize(("ranks", "layout"), [(2, "paired"), (2, "fused"), (4, "paired")])
def test_ranks_with_a_device_each_are_the_oracle(
    ranks: int, layout: topology.Layout, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Any
) -> None:
    """Exchange, gather and sums over NCCL."""
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices, here are {torch.cuda.device_count()}")
    cases = [replace(case, layout=layout) for case in CASES]
    assert_oracle(run_ranks(ranks, on_rank, cases, {}, "nccl"), cases, oracle)


@pytest.mark.parametrize(("ranks", "layout"), [(2, "paired"), (2, "fused"), (4, "paired")])
def test_ranks_that_share_a_device_are_the_oracle(
    ranks: int, layout: topology.Layout, oracle: dict[tuple[int, Rule], Outcome], run_ranks: Any
) -> None:
    """Exchanges through host memory, sums by gloo."""
    cases = [replace(case, layout=layout, line="staged") for case in CASES]
    assert_oracle(run_ranks(ranks, on_rank, cases, ONE_DEVICE, "gloo"), cases, oracle)


def test_a_pair_that_shares_a_device_over_nccl_is_the_oracle(
    oracle: dict[tuple[int, Rule], Outcome], run_ranks: Any
) -> None:
    version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    if version < NCCL_MULTI_RANK:
        pytest.skip(f"needs NCCL {NCCL_MULTI_RANK}, here is {version}")
    environment = ONE_DEVICE | {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}
    assert_oracle(run_ranks(2, on_rank, CASES, environment, "nccl"), CASES, oracle)
