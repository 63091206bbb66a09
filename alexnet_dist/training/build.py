"""What computes a run's steps, each from the config: exactness, the batch's preparation, the engine, the schedule."""

from __future__ import annotations

import torch

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.data import augment
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.link import P2PLink, StagedLink
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.layers import local_response_norm
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.training.feed import Preparation
from alexnet_dist.training.optim import Rule, Schedule
from alexnet_dist.training.step import Engine, engine

WEIGHT_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def set_arithmetic(settings: Config) -> None:
    """Tell torch, for this process, what the config says of exactness: reproducible operations, TF32."""
    torch.use_deterministic_algorithms(settings.train.deterministic)
    torch.backends.cudnn.benchmark = not settings.train.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.train.tf32


def slowness(settings: Config, place: Topology) -> str | None:
    """Return a line on what will be slow for no good reason on this machine, or None."""
    if settings.train.dtype == "bfloat16" and place.device.type == "cpu" and not has_bfloat16():
        return (
            "warning: train.dtype: bfloat16, but this CPU has no instructions for it (AVX-512 or AMX): a step takes"
            " about 20 times as long as with train.dtype=float32"
        )
    return None


def has_bfloat16() -> bool:
    """Return whether this machine's CPU multiplies bfloat16 faster than one by one."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def preparation(settings: Config, train: Split, place: Topology) -> Preparation:
    """Return what turns decoded pixels into the net's input, the mean image's centre crop on this rank's device."""
    size, crop = train.manifest.size, settings.data.crop
    first = augment.centre_offset(size, crop)
    mean = torch.from_numpy(train.mean)[:, first : first + crop, first : first + crop].contiguous()
    return Preparation(
        seed=settings.run.seed,
        size=size,
        crop=crop,
        flip=settings.data.flip,
        colour_noise=settings.data.colour_noise,
        components=train.components,
        mean=mean.to(place.device),
        dtype=WEIGHT_DTYPES[settings.train.dtype],
        memory_format=memory_format_of(settings),
    )


def memory_format_of(settings: Config) -> torch.memory_format:
    """Return how maps lie in memory."""
    return torch.channels_last if settings.train.channels_last else torch.contiguous_format


def check_compiler(net: Geometry, place: Topology) -> None:
    """Raise UserError where torch.compile cannot make the norm, before the first step would."""
    try:
        local_response_norm(torch.zeros(1, 1, 1, 1, device=place.device), net.norm, compiled=True)
    except RuntimeError as problem:
        raise UserError(
            f"train.compile_norm: torch.compile fails here: {str(problem).strip().splitlines()[0]};"
            " install a C++ compiler (Debian: apt install g++), or set train.compile_norm=false"
        ) from None


def build_engine(settings: Config, place: Topology, groups: Groups) -> Engine:
    """Build this rank's wiring of the net, with initial weights drawn by address, and what trains it."""
    net, dtype = config.geometry(settings), WEIGHT_DTYPES[settings.train.dtype]
    memory_format = memory_format_of(settings)
    if settings.train.compile_norm:
        check_compiler(net, place)
    timeline = Timeline(place.device)
    model: AlexNet | LinkedTower
    if groups.pair is None:
        model = AlexNet(net, settings.run.seed, dtype, settings.train.compile_norm)
    else:
        tower = Tower(place.towers[0], net, settings.run.seed, dtype, settings.train.compile_norm)
        link = StagedLink if place.is_staged else P2PLink
        model = LinkedTower(tower, link(groups.pair, place.rank ^ 1, timeline, memory_format))
    model = model.to(place.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    return engine(
        model,
        Reducer(model, groups.dp, timeline),
        rule_of(settings),
        settings.run.seed,
        settings.data.global_batch,
        settings.train.accumulate,
        COMPUTE_DTYPES[settings.train.dtype],
        timeline,
    )


def rule_of(settings: Config) -> Rule:
    """Return the update rule."""
    recipe = settings.optim
    trust_coefficient = recipe.trust_coefficient if recipe.rule == "lars" else None
    return Rule(recipe.momentum, recipe.weight_decay, recipe.bias_learning_rate_factor, trust_coefficient)


def schedule_of(settings: Config) -> Schedule:
    """Return the learning rate's schedule, the rate scaled with the global batch where a reference is given.

    Linear scaling: Goyal et al., arXiv 1706.02677, §2.1.
    """
    recipe = settings.optim
    scale = 1.0 if recipe.reference_batch is None else settings.data.global_batch / recipe.reference_batch
    return Schedule(
        scale * recipe.learning_rate,
        recipe.schedule,
        recipe.drop_factor,
        recipe.patience,
        recipe.least_improvement,
        recipe.max_drops,
        tuple(recipe.drop_epochs),
        recipe.warmup_epochs,
    )
