"""The status sum: about 2 log2 N messages deep, each number counted once, the same bits on every rank."""

from __future__ import annotations

import random
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.status_sum import Branch, branch, most_hops
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.system.environment import launch_info
from support.ranks import Ranks

Number = int | float


class Outcome(NamedTuple):
    """A rank's total, how many messages it has sent, and how many messages one after the other its total took."""

    total: Number
    sent: int
    hops: int


def simulate(numbers: Sequence[Number], seed: int) -> list[Outcome]:
    """Sum along the tree, where ranks take turns in a random order; between two ranks messages keep their order."""
    mail: dict[tuple[int, int], deque[tuple[Number, int]]] = defaultdict(deque)
    outcomes: dict[int, Outcome] = {}

    def run(rank: int) -> Iterator[None]:
        own, total, hops = branch(rank, len(numbers)), numbers[rank], 0
        for child in own.children:
            while not mail[child, rank]:
                yield
            part, arrived = mail[child, rank].popleft()
            total, hops = total + part, max(hops, arrived)
        if own.parent is not None:
            mail[rank, own.parent].append((total, hops + 1))
            while not mail[own.parent, rank]:
                yield
            total, hops = mail[own.parent, rank].popleft()
        for child in own.children:
            mail[rank, child].append((total, hops + 1))
        outcomes[rank] = Outcome(total, len(own.children) + (own.parent is not None), hops)

    ranks = [run(rank) for rank in range(len(numbers))]
    random.Random(seed).shuffle(ranks)
    for _ in range(most_hops(len(numbers)) + 1):  # in each turn of all ranks, a message of each sequence arrives
        for rank in ranks:
            next(rank, None)
    assert not any(mail.values())
    return [outcomes[rank] for rank in range(len(numbers))]


@given(st.integers(1, 1100), st.integers())
def test_every_number_reaches_every_rank_once_in_log_n_hops(world_size: int, seed: int) -> None:
    outcomes = simulate([1 << rank for rank in range(world_size)], seed)
    assert {outcome.total for outcome in outcomes} == {(1 << world_size) - 1}
    assert max(outcome.hops for outcome in outcomes) <= most_hops(world_size)
    assert max(outcome.sent for outcome in outcomes) <= (world_size - 1).bit_length()
    assert sum(outcome.sent for outcome in outcomes) == 2 * (world_size - 1)


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=40), st.integers(), st.integers())
def test_all_ranks_have_the_same_bits_in_any_order_of_arrival(losses: list[float], seed: int, other: int) -> None:
    totals = {float(outcome.total).hex() for each in (seed, other) for outcome in simulate(losses, each)}
    assert len(totals) == 1


def test_hops_at_scale() -> None:
    assert [most_hops(size) for size in (1, 2, 3, 4, 6, 8, 64, 1000, 1024)] == [0, 2, 4, 4, 6, 6, 12, 20, 20]
    assert max(outcome.hops for outcome in simulate([1] * 1024, 0)) == 20
    assert branch(0, 1) == Branch(None, ())


def summed(delays_s: list[float]) -> tuple[list[list[str]], list[int]]:
    """Sum 5 times, each posted before the one before is waited for; return the bits, and the bytes of each message."""
    rank, messages = launch_info().rank, []
    isend = dist.isend

    def counted(tensor: Tensor, **to: Any) -> dist.Work | None:
        messages.append(tensor.nbytes)
        return isend(tensor, **to)

    dist.isend = counted  # type: ignore[assignment]
    control = Control(open_groups(resolve_topology("fused", "cpu", launch_info()), 60).world)
    pending, sums = [], []
    for step in range(5):
        time.sleep(delays_s[(rank + step) % len(delays_s)])
        pending.append(control.post([0.1 * rank + step, 1 / (3 + rank), float(rank)]))
        if step:
            sums.append(control.wait(pending[step - 1]))
    sums.append(control.wait(pending[-1]))
    close_groups()
    return [[number.hex() for number in numbers] for numbers in sums], messages


@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_real_ranks_have_the_same_bits_whatever_the_delays(world_size: int, run_ranks: Ranks) -> None:
    expected = [
        [float(simulate(numbers, 0)[0].total).hex() for numbers in columns]
        for columns in (
            (
                [0.1 * rank + step for rank in range(world_size)],
                [1 / (3 + rank) for rank in range(world_size)],
                [float(rank) for rank in range(world_size)],
            )
            for step in range(5)
        )
    ]
    for bits, messages in run_ranks(world_size, summed, [0.0, 0.02, 0.0, 0.05]):
        assert bits == expected
        assert set(messages) == {24}
        assert len(messages) <= 5 * (world_size - 1).bit_length()
