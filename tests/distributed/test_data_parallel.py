"""Sums over replicas: the order in which ranks post and wait, the messages of the gradients, and their faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed import data_parallel
from alexnet_dist.distributed.data_parallel import Reducer, all_reduce
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.link import Handle, P2PLink
from alexnet_dist.distributed.lost_rank import AVERAGING, LostRankError
from alexnet_dist.distributed.topology import resolve_topology
from alexnet_dist.distributed.tower_parallel import PIXELS, LinkedTower
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.system.environment import launch_info
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.step import train_step
from support.nets import SMALL
from support.ranks import Ranks
from support.steps import RATES, batch
from support.wirings import SEED, Case, Slots, build


class RecordedLink(P2PLink):
    """A link that records what is posted and waited for."""

    def __init__(self, events: list[str], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._events = events

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        self._events.append(f"post {join}")
        return super().start(tensor, receive_shape, join)

    def wait(self, handle: Handle) -> Tensor:
        self._events.append(f"wait {handle.join}")
        return super().wait(handle)


@dataclass
class RecordedWork:
    events: list[str]
    work: dist.Work

    def wait(self) -> None:
        self.events.append(f"wait {AVERAGING}")
        self.work.wait()


class PixelSlots(Slots):
    """Batches whose pixels cross the link one ahead, as those of the feed do."""

    def __init__(self, link: P2PLink, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._link, self._in_flight = link, list[Handle]()

    def send_ahead(self) -> None:
        if not self._in_flight:
            self._in_flight.append(self._link.start(torch.zeros(3), (3,), PIXELS))

    def take(self) -> Batch:
        self.send_ahead()
        self._link.wait(self._in_flight.pop())
        return super().take()


def two_steps(accumulate: int) -> list[str]:
    """Return what this rank posted and waited for, in two steps."""
    topology = resolve_topology("paired", "cpu", launch_info())
    groups = open_groups(topology, 60)
    assert groups.pair is not None
    events: list[str] = []

    def recorded(tensor: Tensor, group: dist.ProcessGroup) -> dist.Work:
        events.append(f"post {AVERAGING}")
        return cast("dist.Work", RecordedWork(events, all_reduce(tensor, group)))

    vars(data_parallel)["SMALL"] = 64  # the net is small: most of its gradients should be messages of their own
    timeline, case = Timeline(torch.device("cpu")), Case(global_batch=13, accumulate=accumulate)
    link = RecordedLink(events, groups.pair, topology.rank ^ 1, timeline)
    model = LinkedTower(Tower(topology.towers[0], SMALL, SEED, torch.float64), link)
    engine = build(model, groups.dp, case, timeline, recorded)
    source = PixelSlots(link, case, topology.replica, topology.replicas)
    for step in (0, 1):
        train_step(engine, source, step, RATES)
    close_groups()
    return events


HIDDEN = ["conv3", "fc6", "fc7", "fc8"]
FORWARD = [f"{verb} {join} forward" for join in HIDDEN for verb in ("post", "wait")] + ["post logits", "wait logits"]
BACKWARD = [f"{verb} {join} backward" for join in reversed(HIDDEN) for verb in ("post", "wait")]


@pytest.mark.parametrize(("ranks", "accumulate"), [(4, 1), (6, 2)])
def test_every_rank_posts_in_the_same_order_and_one_kind_at_a_time(
    ranks: int, accumulate: int, run_ranks: Ranks
) -> None:
    events, *others = run_ranks(ranks, two_steps, accumulate)
    assert all(other == events for other in others)
    pair = [event for event in events if AVERAGING not in event]
    micro_batch = ["wait pixels", *FORWARD, *BACKWARD, "post pixels"]
    assert pair == ["post pixels", *micro_batch * (2 * accumulate)]
    # Between the first posted sum of a step and its last wait, the pair posts and waits for nothing.
    for step in range(2):
        indices = [index for index, event in enumerate(events) if AVERAGING in event]
        half = len(indices) // 2
        span = indices[step * half : (step + 1) * half]
        assert len(span) == span[-1] - span[0] + 1
        assert events[span[0] - 1] == "post pixels"
        kinds = [events[index].split()[0] for index in span]
        assert kinds == sorted(kinds)  # all posts, then all waits
        assert kinds.count("post") == kinds.count("wait") > len(HIDDEN)


@dataclass
class DoublingReduce:
    """Stands for an all-reduce over two replicas with the same gradients; `wait` completes the sum.

    lost: let every wait fail, as if the other replica had died.
    """

    lost: bool = False
    sizes: list[int] = field(default_factory=list)

    def __call__(self, tensor: Tensor, _group: object) -> dist.Work:
        self.sizes.append(tensor.numel())
        return cast("dist.Work", DoublingWork(tensor, self.lost))


@dataclass
class DoublingWork:
    tensor: Tensor
    lost: bool

    def wait(self) -> None:
        if self.lost:
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1")
        self.tensor *= 2


def backward(reduce: DoublingReduce | None, model: AlexNet) -> Reducer:
    """Run forward and backward of one batch, without dropout, with an armed reducer; reduce None: one replica."""
    timeline, group = Timeline(torch.device("cpu")), cast("dist.ProcessGroup", object())
    reducer = Reducer(model, None, timeline) if reduce is None else Reducer(model, group, timeline, reduce)
    reducer.arm(before_launch=lambda: None)
    model.eval()(batch(0, 2).images).sum().backward()
    return reducer


def net() -> AlexNet:
    return AlexNet(SMALL, SEED, torch.float64)


def gradients(model: AlexNet) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_every_gradient_is_summed_once_and_small_ones_share_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_parallel, "SMALL", 250)
    summed, alone, reduce = net(), net(), DoublingReduce()
    reducer = backward(reduce, summed)
    early = list(reduce.sizes)  # posted at the boundary, while backward still runs
    reducer.finish()
    late = reduce.sizes[len(early) :]
    backward(None, alone).finish()
    expected = gradients(alone)
    for name, gradient in gradients(summed).items():
        torch.testing.assert_close(gradient, 2 * expected[name], rtol=0, atol=0)
    assert len(expected) == len(list(alone.parameters()))
    for messages, of_stage_0 in ((early, False), (late, True)):
        sizes = [
            gradient.numel()
            for name, gradient in expected.items()
            if (".conv1." in name or ".conv2." in name) == of_stage_0
        ]
        large = [size for size in sizes if size >= 250]
        small = [size for size in sizes if size < 250]
        assert large
        assert len(small) > 1
        assert messages == [*large, sum(small)]


def test_one_replica_sends_nothing() -> None:
    model, reduce = net(), DoublingReduce()
    reducer = Reducer(model, None, Timeline(torch.device("cpu")), reduce)
    reducer.arm(before_launch=lambda: None)
    model.eval()(batch(0, 2).images).sum().backward()
    reducer.finish()
    assert reduce.sizes == []


def test_a_lost_replica_is_reported_as_lost_in_averaging() -> None:
    reducer = backward(DoublingReduce(lost=True), net())
    with pytest.raises(LostRankError) as caught:
        reducer.finish()
    assert caught.value.operation == AVERAGING


def test_without_the_boundary_the_sums_above_it_would_be_missing() -> None:
    model = net()
    for tower in model.towers:
        for name in ("conv1", "conv2"):
            tower.get_submodule(name).requires_grad_(False)
    reducer = backward(DoublingReduce(), model)
    with pytest.raises(RuntimeError, match="stage 0 wants no gradients"):
        reducer.finish()
