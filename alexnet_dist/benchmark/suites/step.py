"""The benchmark ``step``: a training step of our net, in one process and in two, beside the same net in plain torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median

import torch

from alexnet_dist.benchmark import devices
from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.benchmark.contenders.training_steps import StepSettings
from alexnet_dist.benchmark.rounds import Contender, Result, ratio
from alexnet_dist.nn.compiler import compile_problem
from alexnet_dist.training.build import has_bfloat16

PLAIN, TORCHVISION = "plain PyTorch, float32", "torchvision AlexNet, float32"
FUSED, COMPILED = "fused, float32", "fused, norm compiled"
OVERLAPPED, BLOCKING = "pair, overlapped", "pair, blocking"
OVERLAPPED_SLOW, BLOCKING_SLOW = "pair, overlapped, slow link", "pair, blocking, slow link"
BF16, BF16_LAST = "fused, bfloat16", "fused, bfloat16, channels_last"
NORM_TORCH, NORM_EAGER, NORM_COMPILED = "norm alone, torch", "norm alone, ours", "norm alone, ours compiled"
PLAIN_CUDA, FUSED_CUDA, COMPILED_CUDA = "plain PyTorch, cuda", "fused, cuda", "fused, cuda, norm compiled"
# A rank receives 7.8 MB in a step of 32 images: 78 ms of delay.
SLOW_NS_PER_BYTE = 10.0
NORM_REPEATS = 7
NO_BF16 = "this CPU has no bfloat16 instructions: a step would take minutes"
COLUMNS = {
    "images_per_second": "images/s",
    "step_ms": "step ms",
    "link_wait_ms": "link wait ms",
    "injected_ms": "injected ms",
}
COLUMNS_CUDA = {
    "images_per_second": "images/s",
    "step_ms": "step ms",
    "peak_memory_gigabytes": "peak GB",
    "mfu": "MFU",
}
LEAVES_OUT = "reading and decoding of images, their copy to the device, preparation of the input"
NOTES = f"not in these steps: {LEAVES_OUT}; `python -m alexnet_dist.benchmark train` measures whole runs"
# By name of the ratio: images a second of the first contender over those of the second.
RATIOS: Mapping[str, tuple[str, str]] = {
    "fused_vs_plain": (FUSED, PLAIN),
    "compiled_vs_plain": (COMPILED, PLAIN),
    "pair_vs_fused": (OVERLAPPED, FUSED),
    "pair_vs_plain": (OVERLAPPED, PLAIN),
    "overlapped_vs_blocking": (OVERLAPPED, BLOCKING),
    "overlapped_vs_blocking_slow_link": (OVERLAPPED_SLOW, BLOCKING_SLOW),
    "bf16_vs_plain": (BF16, PLAIN),
    "bf16_channels_last_vs_plain": (BF16_LAST, PLAIN),
    "vs_torchvision": (FUSED, TORCHVISION),
    "lrn_eager_vs_torch": (NORM_EAGER, NORM_TORCH),
    "lrn_compiled_vs_torch": (NORM_COMPILED, NORM_TORCH),
    "cuda_vs_plain": (FUSED_CUDA, PLAIN_CUDA),
    "cuda_compiled_vs_plain": (COMPILED_CUDA, PLAIN_CUDA),
}
# By name of the share: the contenders with and without the delay (`wait_share`).
SHARES = {"wait_share_overlapped": (OVERLAPPED_SLOW, OVERLAPPED), "wait_share_blocking": (BLOCKING_SLOW, BLOCKING)}


def contenders(settings: StepSettings) -> list[Contender]:
    """Return the contenders on a CPU; settings: of a single process, with all threads."""
    half = replace(settings, threads=max(1, settings.threads // 2))
    slow = replace(half, ns_per_byte=SLOW_NS_PER_BYTE)
    no_bf16 = "" if has_bfloat16() else NO_BF16
    no_compiler = _compiler_missing("cpu")
    single, bf16 = asdict(settings), replace(settings, dtype="bfloat16")
    norm = {
        "batch": settings.batch, "repeats": NORM_REPEATS, "threads": settings.threads,
        "width_divisor": settings.width_divisor,
    }  # fmt: skip
    return [
        Contender(PLAIN, "plain_step", single, is_peer=True),
        Contender(
            TORCHVISION,
            "plain_step",
            {"net": "torchvision", **single},
            plain_nets.torchvision_problem(),
            is_peer=True,
        ),
        Contender(FUSED, "fused_step", single),
        Contender(COMPILED, "fused_step", asdict(replace(settings, compile_norm=True)), no_compiler),
        Contender(OVERLAPPED, "ranks", pair_settings(half)),
        Contender(BLOCKING, "ranks", pair_settings(replace(half, blocking=True))),
        Contender(OVERLAPPED_SLOW, "ranks", pair_settings(slow)),
        Contender(BLOCKING_SLOW, "ranks", pair_settings(replace(slow, blocking=True))),
        Contender(BF16, "fused_step", asdict(bf16), no_bf16),
        Contender(BF16_LAST, "fused_step", asdict(replace(bf16, channels_last=True)), no_bf16),
        Contender(NORM_TORCH, "norm", {"kind": "torch", **norm}, is_peer=True),
        Contender(NORM_EAGER, "norm", {"kind": "eager", **norm}),
        Contender(NORM_COMPILED, "norm", {"kind": "compiled", **norm}, no_compiler),
    ]


def cuda_contenders(settings: StepSettings) -> list[Contender]:
    """Return the contenders on one CUDA device; raises UserError if there is none."""
    devices.check_devices("cuda", 1)
    compiled = asdict(replace(settings, compile_norm=True))
    return [
        Contender(PLAIN_CUDA, "plain_step", asdict(settings), is_peer=True),
        Contender(FUSED_CUDA, "fused_step", asdict(settings)),
        Contender(COMPILED_CUDA, "fused_step", compiled, _compiler_missing("cuda")),
    ]


def _compiler_missing(device: str) -> str:
    """Return why our norm cannot be compiled on a device, or an empty string."""
    problem = compile_problem(torch.device(device))
    return f"torch.compile fails here: {problem}" if problem else ""


def pair_settings(settings: StepSettings, replicas: int = 1) -> dict[str, object]:
    """Return the settings of the task `ranks` for one pair of ranks a replica."""
    return {"task": "rank_step", "ranks": 2 * replicas, "settings": asdict(settings)}


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return the ratios of RATIOS and the shares of SHARES whose contenders ran."""
    values = {name: ratio(results, ours, theirs) for name, (ours, theirs) in RATIOS.items()}
    values |= {name: wait_share(results, slow, fast) for name, (slow, fast) in SHARES.items()}
    return {name: value for name, value in values.items() if value is not None}


def wait_share(results: Sequence[Result], slow: str, fast: str) -> float | None:
    """Return the share of an injected delay for which towers wait: (wait with it - wait without it) / delay.

    Both waits are of the same round, since towers also wait for each other. Median over the rounds; None if either
    contender is missing.
    """
    rounds = {result.name: result.rounds for result in results}
    if not (rounds.get(slow) and rounds.get(fast)):
        return None
    return median(
        (with_delay["link_wait_ms"] - without["link_wait_ms"]) / with_delay["injected_ms"]
        for with_delay, without in zip(rounds[slow], rounds[fast], strict=True)
    )
