"""What computes the steps of a run: the engine, the update rule and the schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from alexnet_dist.config import Config
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.link import P2PLink, StagedLink
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.compiler import compile_problem
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.training.context import COMPUTE_DTYPES, WEIGHT_DTYPES, RunContext, memory_format_of
from alexnet_dist.training.faults import FaultyTimeline, Injector
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.schedule import Schedule
from alexnet_dist.training.step import Engine, new_engine

COMPILER_ADVICE = "install a C++ compiler and Python's headers (Debian: apt install g++ python3-dev)"


def slow_dtype_warning(run: RunContext) -> str | None:
    """Return a warning if this machine computes the run's dtype one number at a time, or None."""
    if run.config.train.dtype == "bfloat16" and run.topology.device.type == "cpu" and not has_bfloat16():
        return (
            "warning: train.dtype: bfloat16, but this CPU has no instructions for it (AVX-512 or AMX): a step takes"
            " about 20 times as long as with train.dtype=float32"
        )
    return None


def compiles(run: RunContext) -> bool:
    """Return whether a run compiles what may be compiled; UserError if it asks for it and torch.compile fails here."""
    wanted, device = run.config.train.compile_norm, run.topology.device
    if wanted is False or (wanted == "auto" and not _gains_by_compiling(run)):
        return False
    problem = compile_problem(device)
    if problem and wanted is True:
        raise UserError(
            f"train.compile_norm: torch.compile fails here: {problem};"
            f" {COMPILER_ADVICE}, or set train.compile_norm=false"
        )
    return problem is None


def uncompiled_warning(run: RunContext) -> str | None:
    """Return a warning if a run would compile on this machine but cannot, or None."""
    if run.config.train.compile_norm != "auto" or not _gains_by_compiling(run):
        return None
    problem = compile_problem(run.topology.device)
    return problem and (
        f"warning: train.compile_norm: torch.compile fails here: {problem}; steps take up to twice as long;"
        f" {COMPILER_ADVICE}"
    )


def _gains_by_compiling(run: RunContext) -> bool:
    """Return whether compiling saves more than the seconds that it takes: on CUDA, for a net with a norm."""
    return run.topology.device.type == "cuda" and any(layer.norm for layer in run.net.layers.values())


def check_graph(run: RunContext) -> None:
    """Raise UserError if a run asks for a CUDA graph and its steps cannot be one."""
    if not run.config.train.cuda_graph:
        return
    reasons = {
        "train.device": (run.topology.device.type, "cuda"),
        "topology.layout": (run.topology.layout, "fused"),
        "the number of replicas": (run.topology.replicas, 1),
        "train.accumulate": (run.config.train.accumulate, 1),
    }
    for name, (found, expected) in reasons.items():
        if found != expected:
            raise UserError(
                f"train.cuda_graph: {name} is {found}; expected {expected}, as one graph is the whole step of one"
                " device; set train.cuda_graph=false"
            )
    if run.config.run.on_divergence == "skip":
        raise UserError(
            "train.cuda_graph: run.on_divergence is skip, for which the host looks at the gradients before the update;"
            " expected stop or rollback, or set train.cuda_graph=false"
        )


def has_bfloat16() -> bool:
    """Return whether this machine's CPU has instructions for bfloat16 products."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def build_engine(run: RunContext, groups: Groups, injector: Injector | None = None) -> Engine:
    """Build this rank's wiring of the net, with counter-based initial weights, and what trains it.

    injector: of faults, in tests.
    Raises UserError if train.compile_norm is true and torch.compile does not work here, or for train.cuda_graph where
    a step cannot be one graph.
    """
    config, topology, dtype = run.config, run.topology, WEIGHT_DTYPES[run.config.train.dtype]
    memory_format = memory_format_of(config)
    check_graph(run)
    is_compiled = compiles(run)
    device = topology.device
    timeline = Timeline(device) if injector is None else FaultyTimeline(device, injector=injector)
    model: AlexNet | LinkedTower
    if groups.pair is None:
        model = AlexNet(run.net, config.run.seed, dtype, is_compiled)
    else:
        tower = Tower(topology.towers[0], run.net, config.run.seed, dtype, is_compiled)
        link = StagedLink if topology.is_staged else P2PLink
        model = LinkedTower(tower, link(groups.pair, topology.rank ^ 1, timeline, memory_format))
    model = model.to(topology.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    return new_engine(
        model,
        Reducer(model, groups.dp, timeline),
        rule_of(config),
        config.run.seed,
        config.data.global_batch,
        config.train.accumulate,
        COMPUTE_DTYPES[config.train.dtype],
        timeline,
        guarded=config.run.on_divergence == "skip",
        is_compiled=is_compiled,
    )


def rule_of(config: Config) -> Rule:
    """Return the update rule."""
    optim = config.optim
    trust_coefficient = optim.trust_coefficient if optim.rule == "lars" else None
    return Rule(optim.momentum, optim.weight_decay, trust_coefficient)


def schedule_of(config: Config) -> Schedule:
    """Return the schedule of the learning rates, scaled with the global batch if a reference batch is set.

    Linear scaling: Goyal et al., arXiv 1706.02677, §2.1.
    """
    optim = config.optim
    scale = 1.0 if optim.reference_batch is None else config.data.global_batch / optim.reference_batch

    def scaled(learning_rate: float | None) -> float | None:
        return None if learning_rate is None else scale * learning_rate

    def scaled_layers(rates: Mapping[str, float]) -> dict[str, float]:
        return {name: scale * learning_rate for name, learning_rate in rates.items()}

    events = [
        event.model_copy(
            update={
                "learning_rate": scaled(event.learning_rate),
                "bias_learning_rate": scaled(event.bias_learning_rate),
                "layer_learning_rates": scaled_layers(event.layer_learning_rates),
            }
        )
        for event in config.run.events
    ]
    return Schedule(
        initial_learning_rate=scale * optim.learning_rate,
        kind=optim.schedule,
        factor=optim.drop_factor,
        patience=optim.patience,
        least_improvement=optim.least_improvement,
        max_drops=optim.max_drops,
        drop_epochs=tuple(optim.drop_epochs),
        warmup_epochs=optim.warmup_epochs,
        bias_factor=optim.bias_learning_rate_factor,
        bias_learning_rate=scaled(optim.bias_learning_rate),
        layer_learning_rates=scaled_layers(optim.layer_learning_rates),
        events=tuple(events),
    )
