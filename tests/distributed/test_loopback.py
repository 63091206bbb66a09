"""A tower that is linked to itself: in one process, real messages and sums compute what an echo computes.

NCCL sends to its own rank. gloo does not ("Pair is not connected"), so on a CPU the link's group holds both ends of a
gloo connection (`Ends`), and what it sends at one end it receives at the other; all else is the same as over NCCL.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from alexnet_dist.distributed import data_parallel
from alexnet_dist.distributed.data_parallel import all_reduce
from alexnet_dist.distributed.groups import close_groups, new_group
from alexnet_dist.distributed.link import Handle, P2PLink, PairLink
from alexnet_dist.distributed.tower_parallel import PIXELS, LinkedTower
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import Tower
from alexnet_dist.system.environment import prepare_cuda
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.step import train_step
from support.nets import SMALL
from support.ranks import Ranks
from support.steps import RATES, batch
from support.wirings import SEED, Case, Outcome, build, errors

# An even number of classes: both halves of the logits have one shape.
EVEN = replace(SMALL, classes=12, layers={**SMALL.layers, "fc8": replace(SMALL.layers["fc8"], channels=None)})
STEPS = 4
TIMEOUT = timedelta(seconds=60)
LATE, TWICE = "a message arrives one late", "the only replica is counted twice"


class EchoLink:
    """A link without messages: what is sent has arrived."""

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        assert tensor.shape == tuple(receive_shape)
        return Handle(join, (), tensor, tensor.clone())

    def wait(self, handle: Handle) -> Tensor:
        return handle.received


class LateLink(P2PLink):
    """A link that returns, from the second message of a join on, the one before it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._before: dict[str, Tensor] = {}

    def wait(self, handle: Handle) -> Tensor:
        arrived = super().wait(handle)
        late = self._before.get(handle.join, arrived)
        self._before[handle.join] = arrived
        return late


def sum_twice(tensor: Tensor, group: dist.ProcessGroup) -> dist.Work:
    return all_reduce(tensor.mul_(2), group)


class Ends(dist.ProcessGroup):
    """Both ends of a gloo connection in one process, as a group of one rank."""

    def __init__(self, _store: object, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # torch's stub lacks the constructor for subclasses
        store = HashStore()
        with ThreadPoolExecutor(2) as threads:  # each end waits for the other
            ends = threads.map(lambda end: dist.ProcessGroupGloo(store, end, 2, timeout), (0, 1))
            self._first, self._second = cast("Iterator[Any]", ends)

    def send(self, tensors: list[Tensor], _peer: int, tag: int) -> dist.Work:
        return cast("dist.Work", self._first.send(tensors, 1, tag))

    def recv(self, tensors: list[Tensor], _peer: int, tag: int) -> dist.Work:
        return cast("dist.Work", self._second.recv(tensors, 0, tag))


def open_groups_of_one(device: torch.device) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Return two groups of this rank alone, with a communicator each: the pair's and that of the replicas."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
        return new_group([0], TIMEOUT, urgent=True), new_group([0], TIMEOUT)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    dist.Backend.register_backend("ends", Ends, devices=["cpu"])
    return new_group([0], TIMEOUT, "ends", urgent=True), new_group([0], TIMEOUT)


class CrossedPixels:
    """A BatchSource whose images are the rows that have crossed the link, one batch ahead, as those of the feed."""

    def __init__(self, link: PairLink, case: Case, batches: int) -> None:
        """Put all rows on the device, which a later copy would wait for."""
        self._link, self._memory_format = link, case.memory_format
        device, size = torch.device(case.device), case.global_batch // case.accumulate
        slots = batch(0, size)
        self._slots = replace(slots, labels=slots.labels.to(device), slots=slots.slots.to(device))
        shape = (batches, size // 2, 3 * EVEN.side**2)
        rows = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.uint8)
        self._rows = list(rows.to(device))
        self._in_flight: list[Handle] = []

    def send_ahead(self) -> None:
        if not self._in_flight:
            rows = self._rows.pop(0)
            self._in_flight.append(self._link.start(rows, rows.shape, PIXELS))

    def take(self) -> Batch:
        self.send_ahead()
        handle = self._in_flight.pop()
        rows = torch.cat([handle.sent, self._link.wait(handle)])
        images = (rows.view(-1, 3, EVEN.side, EVEN.side).double() - 128) / 4
        return replace(self._slots, images=images.contiguous(memory_format=self._memory_format))


@contextmanager
def no_host_waits(device: str) -> Iterator[None]:
    """Let CUDA raise where the host would wait for the device; nothing on a CPU."""
    if device != "cuda":
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trained(case: Case, link: PairLink, group: dist.ProcessGroup | None, timeline: Timeline) -> Outcome:
    """Train a tower on a link; return the last step's gradients, the weights after it and logits that they give."""
    model = LinkedTower(Tower(0, EVEN, SEED, torch.float64), link)
    engine = build(model, group, case, timeline, sum_twice if case.mutant == TWICE else all_reduce)
    source = CrossedPixels(link, case, STEPS * case.accumulate + 1)
    for step in range(STEPS):
        # The earlier steps may wait: they allocate, choose algorithms and connect.
        with no_host_waits(case.device) if step == STEPS - 1 else nullcontext():
            pending = train_step(engine, source, step, RATES)
        pending.read()
    last = source.take()
    logits = engine.logits(last.images, DropoutKey(SEED, STEPS, last.slots)).detach()
    weights = {0: {name: weight.detach() for name, weight in engine.weights[0].items()}}
    return Outcome((0, len(logits)), logits, {0: engine.gradients(0)}, weights)


def errors_of_loopback(cases: list[Case]) -> list[tuple[float, float, float]]:
    """Return how far the loopback is from the echo, for cases of one device; runs in a process of its own."""
    prepare_cuda()
    vars(data_parallel)["SMALL"] = 64  # the net is small: most of its gradients should be messages of their own
    device = torch.device("cuda", 0) if cases[0].device == "cuda" else torch.device("cpu")
    pair, replicas = open_groups_of_one(device)
    found = []
    for case in cases:
        timeline = Timeline(device)
        new_link = LateLink if case.mutant == LATE else P2PLink
        actual = trained(case, new_link(pair, 0, timeline, case.memory_format), replicas, timeline)
        expected = trained(replace(case, mutant=""), EchoLink(), None, Timeline(device))
        found.append(errors(actual, expected))
    close_groups()
    return found


needs_cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_tower_that_is_linked_to_itself_hears_its_echo(device: str, run_ranks: Ranks) -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    cases = [
        Case(device=device, accumulate=2, memory_format=memory_format, mutant=mutant)
        for memory_format in formats
        for mutant in ("", LATE, TWICE)
    ]
    (found,) = run_ranks(1, errors_of_loopback, cases)
    for case, (logits, gradients, weights) in zip(cases, found, strict=True):
        if case.mutant:
            assert min(logits, gradients, weights) > 1e-3, case
        else:
            assert max(logits, gradients, weights) <= 1e-12, case
