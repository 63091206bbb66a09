"""Both wirings of a small net, trained for a few float64 steps on any number of ranks, and mutants of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet_dist.benchmark.contenders.delayed_link import DelayedLink
from alexnet_dist.data.plan import micro_batch, replica_slots
from alexnet_dist.distributed import tower_parallel
from alexnet_dist.distributed.data_parallel import AllReduce, Reducer, all_reduce
from alexnet_dist.distributed.groups import close_groups, open_groups
from alexnet_dist.distributed.link import P2PLink, PairLink, StagedLink
from alexnet_dist.distributed.topology import Layout, resolve_topology
from alexnet_dist.distributed.tower_parallel import LinkedTower, exchange
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn import model as nn_model
from alexnet_dist.nn.layers import DropoutKey, local_response_norm
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.system import rng
from alexnet_dist.system.environment import launch_info, prepare_cuda
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rates, Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, new_engine, train_step
from support.nets import SMALL

SEED = 3
CPU = Timeline(torch.device("cpu"))
LEARNING_RATES = (0.02, 0.02, 0.002, 0.002, 0.002)  # a drop after two of the five steps
RULE = Rule()
LINKS: Mapping[str, Callable[..., P2PLink]] = {
    "overlapped": P2PLink, "blocking": partial(DelayedLink, blocking=True), "staged": StagedLink,
}  # fmt: skip
LARS = replace(RULE, trust_coefficient=0.2)

LOGITS_MUTANT = "logits exchanged like a hidden layer"
NORM_MUTANT = "LRN across towers"
DROPOUT_MUTANT = "dropout mask depends on the rank"


@dataclass(frozen=True)
class Case:
    """One way to train: the layout, the batch, the update, the link.

    merged: whether fused towers compute a layer as one operation, as on CUDA. mutant: the fault of the ranks, if any.
    """

    layout: Layout = "paired"
    global_batch: int = 12
    accumulate: int = 1
    mutant: str = ""
    rule: Rule = RULE
    link: str = "overlapped"
    device: str = "cpu"
    merged: bool = False
    memory_format: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Outcome:
    """One rank's results on the CPU: logits of its slots and gradients in the first step, weights after the last.

    gradients, weights: by tower, then by merged parameter name.
    """

    slots: tuple[int, int]
    logits: Tensor
    gradients: dict[int, dict[str, Tensor]]
    weights: dict[int, dict[str, Tensor]]


def samples(step: int, first: int, end: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels and numbers of slots [first, end) of a step; each slot has its own image."""
    images, labels = [], []
    for slot in range(first, end):
        generator = torch.Generator().manual_seed(rng.seed64("rows", step, slot) >> 1)
        images.append(50 * torch.randn(3, SMALL.side, SMALL.side, generator=generator, dtype=torch.float64))
        labels.append(int(torch.randint(SMALL.classes, (), generator=generator)))
    return torch.stack(images).to(device), torch.tensor(labels, device=device), torch.arange(first, end, device=device)


class Slots:
    """A BatchSource of a replica's slots, one step after the other."""

    def __init__(self, case: Case, replica: int, replicas: int) -> None:
        self._batches = self._all(case, replica, replicas)

    def _all(self, case: Case, replica: int, replicas: int) -> Iterator[Batch]:
        for step in range(len(LEARNING_RATES)):
            span = replica_slots(replica, replicas, case.global_batch)
            for index in range(case.accumulate):
                first, end = micro_batch(index, case.accumulate, *span)
                spec = BatchSpec(True, 0, step, np.arange(first, end), first)
                yield Batch(spec, *samples(step, first, end, case.device))

    def take(self) -> Batch:
        return next(self._batches)

    def send_ahead(self) -> None:
        pass


def outcome(engine: Engine, case: Case, replica: int, replicas: int) -> Outcome:
    """Train all steps and return this rank's results."""
    slots = replica_slots(replica, replicas, case.global_batch)
    engine.model.train()
    images, _, numbers = samples(0, *slots, case.device)
    logits = engine.model(images, DropoutKey(SEED, 0, numbers)).detach().cpu()
    source = Slots(case, replica, replicas)
    gradients: dict[int, dict[str, Tensor]] = {}
    for step, learning_rate in enumerate(LEARNING_RATES):
        train_step(engine, source, step, Rates(learning_rate, 2 * learning_rate))
        if step == 0:
            gradients = {tower: _merged_on_cpu(tower, engine.gradients(tower)) for tower in engine.weights}
    weights = {tower: _merged_on_cpu(tower, named) for tower, named in engine.weights.items()}
    return Outcome(slots, logits, gradients, weights)


def _merged_on_cpu(tower: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().cpu() for name, tensor in merge_cross_weights(tower, tensors).items()}


def build(
    model: AlexNet | LinkedTower, group: Any, case: Case, timeline: Timeline, reduce: AllReduce = all_reduce
) -> Engine:
    """Return the engine of a wired model, before its first step."""
    model = model.to(timeline.device).to(memory_format=case.memory_format)  # type: ignore[call-overload]
    reducer = Reducer(model, group, timeline, reduce)
    return new_engine(model, reducer, case.rule, SEED, case.global_batch, case.accumulate, torch.float64, timeline)


def mutate(case: Case, model: AlexNet | LinkedTower, rank: int) -> None:
    """Break this rank in one way that leaves the loss curve plausible."""
    if not case.mutant:
        return
    assert isinstance(model, LinkedTower)
    link, tower = model.link, model.tower.index
    if case.mutant == LOGITS_MUTANT:

        def exchange_logits(logits: Tensor, link: PairLink, index: int, classes: int) -> Tensor:
            missing = classes - 2 * logits.shape[1]  # exchange is for equal halves: pad the smaller one
            padded = torch.nn.functional.pad(logits, (0, max(missing, 0)))
            other = exchange(padded, link, "fc8")()
            widths = (classes // 2, classes - classes // 2)
            halves = (logits, other) if index == 0 else (other, logits)
            return torch.cat([half[:, :width] for half, width in zip(halves, widths, strict=True)], 1)

        vars(tower_parallel)["gather"] = exchange_logits
    elif case.mutant == NORM_MUTANT:

        def normalise_across_towers(maps: Tensor, norm: Any, _compiled: bool) -> Tensor:
            other = exchange(maps, link, "norm")()
            both = torch.cat([maps, other] if tower == 0 else [other, maps], 1)
            return local_response_norm(both, norm).chunk(2, 1)[tower]

        vars(nn_model)["local_response_norm"] = normalise_across_towers
    elif case.mutant == DROPOUT_MUTANT:
        original = vars(nn_model)["dropout"]

        def dropout_by_rank(
            units: Tensor, probability: float, layer: str, first: int, key: DropoutKey, _is_compiled: bool
        ) -> Tensor:
            masked: Tensor = original(units, probability, layer, first, replace(key, seed=key.seed + rank))
            return masked

        vars(nn_model)["dropout"] = dropout_by_rank
    else:
        raise AssertionError(case.mutant)


def on_rank(cases: list[Case], variables: Mapping[str, str] | None = None, backend: str = "gloo") -> list[Outcome]:
    """Join the process groups and run the cases, all of one device; runs in a process of its own."""
    os.environ.update(variables or {})
    prepare_cuda()
    set_precision(deterministic=False, tf32=False)
    topology = resolve_topology(cases[0].layout, cases[0].device, launch_info(), share_device=True)
    assert (topology.device.type, topology.backend) == (cases[0].device, backend)
    groups = open_groups(topology, 60)
    outcomes = []
    for case in cases:
        timeline = Timeline(topology.device)
        model: AlexNet | LinkedTower
        if groups.pair is None:
            model = AlexNet(SMALL, SEED, torch.float64)
            model.merged = case.merged or None
        else:
            tower = Tower(topology.towers[0], SMALL, SEED, torch.float64)
            new_link = LINKS[case.link]
            options = {} if case.link == "blocking" else {"memory_format": case.memory_format}
            model = LinkedTower(tower, new_link(groups.pair, topology.rank ^ 1, timeline, **options))
        mutate(case, model, topology.rank)
        engine = build(model, groups.dp, case, timeline)
        outcomes.append(outcome(engine, case, topology.replica, topology.replicas))
    close_groups()
    return outcomes


def oracles() -> dict[tuple[int, Rule], Outcome]:
    """Return the outcome of one process that trains on the whole batch on the CPU, by global batch and rule."""
    cases = [Case(global_batch=12), Case(global_batch=13), Case(rule=LARS)]
    return {
        (case.global_batch, case.rule): outcome(build(AlexNet(SMALL, SEED, torch.float64), None, case, CPU), case, 0, 1)
        for case in cases
    }


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute error, relative to the largest absolute value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def errors(actual: Outcome, oracle: Outcome) -> tuple[float, float, float]:
    """Return the largest relative error of the logits, of any parameter's gradient, and of any weight."""
    logits = relative_error(actual.logits, oracle.logits[slice(*actual.slots)])
    pairs = [(actual.gradients, oracle.gradients), (actual.weights, oracle.weights)]
    gradients, weights = (
        max(relative_error(value, right[tower][name]) for tower in left for name, value in left[tower].items())
        for left, right in pairs
    )
    return logits, gradients, weights
