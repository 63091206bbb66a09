"""Both wirings of a small net, trained for a few float64 steps on ranks of any number, and mutants of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_dist import process, rng
from alexnet_dist.data.plan import micro_batch, replica_slots
from alexnet_dist.distributed import link, parallel, topology
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.link import DelayedLink, P2PLink, StagedLink
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn import model
from alexnet_dist.nn.layers import DropoutKey, local_response_norm
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights
from alexnet_dist.process import launch_info
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, engine, train_step
from support.nets import SMALL

SEED = 3
CPU = Timeline(torch.device("cpu"))
RATES = (0.02, 0.02, 0.002, 0.002, 0.002)  # a drop after two of the five steps
RULE = Rule(bias_rate_factor=2.0)
LINKS: Mapping[str, Callable[..., P2PLink]] = {
    "overlapped": P2PLink, "blocking": partial(DelayedLink, blocking=True), "staged": StagedLink,
}  # fmt: skip
LARS = replace(RULE, trust_coefficient=0.2)


@dataclass(frozen=True)
class Case:
    """One way to train: the layout, the update, and what the ranks do wrong, if anything."""

    layout: topology.Layout = "paired"
    global_batch: int = 12
    accumulate: int = 1
    mutant: str = ""
    rule: Rule = RULE
    line: str = "overlapped"
    device: str = "cpu"
    memory_format: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Outcome:
    """What one rank has seen: its slots' first logits, its towers' first gradients and last weights; on the CPU."""

    slots: tuple[int, int]
    logits: Tensor
    gradients: dict[int, dict[str, Tensor]]
    weights: dict[int, dict[str, Tensor]]


def rows(step: int, first: int, end: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels and numbers of slots [first, end) of a step, each slot's its own."""
    images, labels = [], []
    for slot in range(first, end):
        generator = torch.Generator().manual_seed(rng.seed64("rows", step, slot) >> 1)
        images.append(50 * torch.randn(3, SMALL.side, SMALL.side, generator=generator, dtype=torch.float64))
        labels.append(int(torch.randint(SMALL.classes, (), generator=generator)))
    return torch.stack(images).to(device), torch.tensor(labels, device=device), torch.arange(first, end, device=device)


class Slots:
    """A source of batches: the replica's slots of one step after the other."""

    def __init__(self, case: Case, replica: int, replicas: int) -> None:
        self._batches = self._all(case, replica, replicas)

    def _all(self, case: Case, replica: int, replicas: int) -> Iterator[Batch]:
        for step in range(len(RATES)):
            span = replica_slots(replica, replicas, case.global_batch)
            for index in range(case.accumulate):
                first, end = micro_batch(index, case.accumulate, *span)
                task = BatchSpec(True, 0, step, np.arange(first, end), first)
                yield Batch(task, *rows(step, first, end, case.device))

    def take(self) -> Batch:
        return next(self._batches)

    def send_ahead(self) -> None:
        pass


def outcome(trainer: Engine, case: Case, replica: int, replicas: int) -> Outcome:
    slots = replica_slots(replica, replicas, case.global_batch)
    trainer.model.train()
    images, _, numbers = rows(0, *slots, case.device)
    logits = trainer.model(images, DropoutKey(SEED, 0, numbers)).detach().cpu()
    source = Slots(case, replica, replicas)
    gradients: dict[int, dict[str, Tensor]] = {}
    for step, rate in enumerate(RATES):
        train_step(trainer, source, step, rate)
        if step == 0:
            gradients = {
                tower: {name: value.clone().cpu() for name, value in merge_cross_weights(tower, trainer.gradients(tower)).items()}
                for tower in trainer.weights
            }
    weights = {tower: merge_cross_weights(tower, named) for tower, named in trainer.weights.items()}
    return Outcome(
        slots, logits, gradients, {t: {n: w.detach().cpu() for n, w in named.items()} for t, named in weights.items()}
    )


def build(wired: AlexNet | LinkedTower, group: Any, case: Case, timeline: Timeline) -> Engine:
    wired = wired.to(timeline.device).to(memory_format=case.memory_format)  # type: ignore[call-overload]
    reducer = Reducer(wired, group, timeline)
    return engine(wired, reducer, case.rule, SEED, case.global_batch, case.accumulate, torch.float64, timeline)


def mutate(case: Case, wired: AlexNet | LinkedTower, rank: int) -> None:
    """Break this rank in one way that leaves the loss curve looking fine."""
    if not case.mutant:
        return
    assert isinstance(wired, LinkedTower)
    line, tower = wired.link, wired.tower.index
    if case.mutant == "logits joined like a hidden layer":

        def joined_hidden(logits: Tensor, pair: link.PairLink, index: int, classes: int) -> Tensor:
            spare = classes - 2 * logits.shape[1]  # exchange is for equal halves: pad the smaller one
            padded = torch.nn.functional.pad(logits, (0, max(spare, 0)))
            other = link.exchange(padded, pair, "fc8")()
            widths = (classes // 2, classes - classes // 2)
            halves = (logits, other) if index == 0 else (other, logits)
            return torch.cat([half[:, :width] for half, width in zip(halves, widths, strict=True)], 1)

        vars(parallel)["gather"] = joined_hidden
    elif case.mutant == "LRN across towers":

        def across(maps: Tensor, norm: Any, _compiled: bool) -> Tensor:
            other = link.exchange(maps, line, "norm")()
            both = torch.cat([maps, other] if tower == 0 else [other, maps], 1)
            return local_response_norm(both, norm).chunk(2, 1)[tower]

        vars(model)["local_response_norm"] = across
    elif case.mutant == "dropout mask depends on the rank":
        honest = vars(model)["dropout"]

        def ranked(units: Tensor, rate: float, layer: str, first: int, address: DropoutKey) -> Tensor:
            masked: Tensor = honest(
                units, rate, layer, first, DropoutKey(address.seed + rank, address.step, address.slots)
            )
            return masked

        vars(model)["dropout"] = ranked
    else:
        raise AssertionError(case.mutant)


def on_rank(cases: list[Case], environment: Mapping[str, str] | None = None, backend: str = "gloo") -> list[Outcome]:
    """Join the other ranks and go through the cases, of one device; runs in a process of its own."""
    os.environ.update(environment or {})
    process.prepare_cuda()
    place = topology.place(cases[0].layout, cases[0].device, launch_info(), share_device=True)
    assert (place.device.type, place.backend) == (cases[0].device, backend)
    groups = topology.open_groups(place, 60)
    outcomes = []
    for case in cases:
        timeline = Timeline(place.device)
        wired: AlexNet | LinkedTower
        if groups.pair is None:
            wired = AlexNet(SMALL, SEED, torch.float64)
        else:
            tower = Tower(place.towers[0], SMALL, SEED, torch.float64)
            line = LINKS[case.line]
            options = {} if line is LINKS["blocking"] else {"memory_format": case.memory_format}
            wired = LinkedTower(tower, line(groups.pair, place.rank ^ 1, timeline, **options))
        mutate(case, wired, place.rank)
        outcomes.append(outcome(build(wired, groups.dp, case, timeline), case, place.replica, place.replicas))
    topology.close_groups()
    return outcomes


def oracles() -> dict[tuple[int, Rule], Outcome]:
    """Return what one process makes of one batch on the CPU, by global batch and rule."""
    cases = [Case(global_batch=12), Case(global_batch=13), Case(rule=LARS)]
    return {
        (case.global_batch, case.rule): outcome(build(AlexNet(SMALL, SEED, torch.float64), None, case, CPU), case, 0, 1)
        for case in cases
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def errors(found: Outcome, wanted: Outcome) -> tuple[float, float, float]:
    """Return the largest relative error of logits, of any parameter's gradient, and of any weight."""
    logits = relative(found.logits, wanted.logits[slice(*found.slots)])
    both = [(found.gradients, wanted.gradients), (found.weights, wanted.weights)]
    gradients, weights = (
        max(relative(value, right[tower][name]) for tower in left for name, value in left[tower].items())
        for left, right in both
    )
    return logits, gradients, weights
