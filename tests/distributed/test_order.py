"""The order in which every rank posts and waits: the same on all, the pair's and the replicas' messages apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed import parallel, topology
from alexnet_dist.distributed.link import PIXELS, Handle, P2PLink
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.model import Tower
from alexnet_dist.process import launch_info
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.step import train_step
from support.nets import SMALL
from support.wirings import SEED, Case, Slots, build

AVERAGE = "averaging"


class NotedLink(P2PLink):
    """A link that notes what is posted and waited for."""

    def __init__(self, events: list[str], *more: Any) -> None:
        super().__init__(*more)
        self._events = events

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        self._events.append(f"post {join}")
        return super().start(tensor, receive_shape, join)

    def wait(self, handle: Handle) -> Tensor:
        self._events.append(f"wait {handle.join}")
        return super().wait(handle)


class NotedWork:
    def __init__(self, events: list[str], work: dist.Work) -> None:
        self._events, self._work = events, work

    def wait(self) -> None:
        self._events.append(f"wait {AVERAGE}")
        self._work.wait()


class NotedSlots(Slots):
    """Batches whose pixels cross the link one ahead, as the feed's do."""

    def __init__(self, line: P2PLink, *more: Any) -> None:
        super().__init__(*more)
        self._line, self._ahead = line, list[Handle]()

    def send_ahead(self) -> None:
        if not self._ahead:
            self._ahead.append(self._line.start(torch.zeros(3), (3,), PIXELS))

    def take(self) -> Batch:
        self.send_ahead()
        self._line.wait(self._ahead.pop())
        return super().take()


def two_steps(accumulate: int) -> list[str]:
    """Return what this rank posted and waited for, in two steps."""
    place = topology.place("paired", "cpu", launch_info())
    groups = topology.open_groups(place, 60)
    assert groups.pair is not None
    events: list[str] = []
    honest = parallel._sum

    def noted(tensor: Tensor, group: dist.ProcessGroup) -> NotedWork:
        events.append(f"post {AVERAGE}")
        return NotedWork(events, honest(tensor, group))

    vars(parallel)["_sum"] = noted
    vars(parallel)["SMALL"] = 64  # the test's net is small: most of its gradients are to travel alone
    timeline, case = Timeline(torch.device("cpu")), Case(global_batch=13, accumulate=accumulate)
    line = NotedLink(events, groups.pair, place.rank ^ 1, timeline)
    model = LinkedTower(Tower(place.towers[0], SMALL, SEED, torch.float64), line)
    trainer = build(model, groups.dp, case, timeline)
    source = NotedSlots(line, case, place.replica, place.replicas)
    for step in (0, 1):
        train_step(trainer, source, step, 0.01)
    topology.close_groups()
    return events


HIDDEN = ["conv3", "fc6", "fc7", "fc8"]
FORWARD = [f"{verb} {join} forward" for join in HIDDEN for verb in ("post", "wait")] + ["post logits", "wait logits"]
BACKWARD = [f"{verb} {join} backward" for join in reversed(HIDDEN) for verb in ("post", "wait")]


@pytest.mark.parametrize(("ranks", "accumulate"), [(4, 1), (6, 2)])
def test_every_rank_posts_in_the_same_order_and_one_kind_at_a_time(ranks: int, accumulate: int, run_ranks: Any) -> None:
    events, *others = run_ranks(ranks, two_steps, accumulate)
    assert all(other == events for other in others)
    pair = [event for event in events if AVERAGE not in event]
    micro_batch = ["wait pixels", *FORWARD, *BACKWARD, "post pixels"]
    assert pair == ["post pixels", *micro_batch * (2 * accumulate)]
    # From the first sum that is posted to the last that is waited for, nothing of the pair's is.
    for step in range(2):
        whole = [i for i, event in enumerate(events) if AVERAGE in event]
        half = len(whole) // 2
        span = whole[step * half : (step + 1) * half]
        assert len(span) == span[-1] - span[0] + 1
        assert events[span[0] - 1] == "post pixels"
        kinds = [events[i].split()[0] for i in span]
        assert kinds == sorted(kinds)  # all posts, then all waits
        assert kinds.count("post") == kinds.count("wait") > len(HIDDEN)
