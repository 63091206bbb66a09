"""The benchmark ``step``: a training step of our net, in one process and in two, beside the same net in plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from statistics import median

import torch

from alexnet_dist.benchmark import devices
from alexnet_dist.benchmark.contenders import norm as norms
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders.training_steps import Job
from alexnet_dist.benchmark.rounds import Entry, Row, ratio

PLAIN, TORCHVISION = "plain PyTorch, float32", "torchvision AlexNet, float32"
FUSED, COMPILED = "fused, float32", "fused, norm compiled"
OVERLAPPED, BLOCKING = "pair, overlapped", "pair, blocking"
OVERLAPPED_SLOW, BLOCKING_SLOW = "pair, overlapped, slow link", "pair, blocking, slow link"
BF16, BF16_LAST = "fused, bfloat16", "fused, bfloat16, channels_last"
NORM_TORCH, NORM_EAGER, NORM_COMPILED = "norm alone, torch", "norm alone, ours", "norm alone, ours compiled"
PLAIN_CUDA, FUSED_CUDA, COMPILED_CUDA = "plain PyTorch, cuda", "fused, cuda", "fused, cuda, norm compiled"
# 7.8 MB come over the link in a step of 32 images: with this they take 78 ms.
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
# By name: images a second of the first over the second's.
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
SHARES = {"wait_share_overlapped": (OVERLAPPED_SLOW, OVERLAPPED), "wait_share_blocking": (BLOCKING_SLOW, BLOCKING)}


def entries(job: Job) -> list[Entry]:
    """Return the contenders on a CPU; job: of a single process, with all threads."""
    half = replace(job, threads=max(1, job.threads // 2))
    slow = replace(half, ns_per_byte=SLOW_NS_PER_BYTE)
    no_bf16 = "" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else NO_BF16
    no_compiler = norms.compiler_problem("cpu")
    bf16 = replace(job, dtype="bfloat16")
    norm = {"batch": job.batch, "repeats": NORM_REPEATS, "threads": job.threads, "narrower": job.narrower}
    return [
        Entry(PLAIN, "plain_step", asdict(job)),
        Entry(TORCHVISION, "plain_step", {"net": "torchvision", **asdict(job)}, nets.torchvision_problem()),
        Entry(FUSED, "fused_step", asdict(job)),
        Entry(COMPILED, "fused_step", asdict(replace(job, compile_norm=True)), no_compiler),
        Entry(OVERLAPPED, "ranks", pairs(half)),
        Entry(BLOCKING, "ranks", pairs(replace(half, blocking=True))),
        Entry(OVERLAPPED_SLOW, "ranks", pairs(slow)),
        Entry(BLOCKING_SLOW, "ranks", pairs(replace(slow, blocking=True))),
        Entry(BF16, "fused_step", asdict(bf16), no_bf16),
        Entry(BF16_LAST, "fused_step", asdict(replace(bf16, channels_last=True)), no_bf16),
        Entry(NORM_TORCH, "norm", {"kind": "torch", **norm}),
        Entry(NORM_EAGER, "norm", {"kind": "eager", **norm}),
        Entry(NORM_COMPILED, "norm", {"kind": "compiled", **norm}, no_compiler),
    ]


def cuda_entries(job: Job) -> list[Entry]:
    """Return the contenders on one CUDA device; UserError where there is none."""
    devices.check_devices("cuda", 1)
    return [
        Entry(PLAIN_CUDA, "plain_step", asdict(job)),
        Entry(FUSED_CUDA, "fused_step", asdict(job)),
        Entry(COMPILED_CUDA, "fused_step", asdict(replace(job, compile_norm=True)), norms.compiler_problem("cuda")),
    ]


def pairs(job: Job, replicas: int = 1) -> dict[str, object]:
    """Return the settings of the task `ranks` for so many pairs."""
    return {"task": "rank_step", "ranks": 2 * replicas, "settings": asdict(job)}


def ratios(rows: list[Row]) -> dict[str, float]:
    """Return the ratios of images a second, and how much of an injected delay is waited for, of those that ran."""
    found = {name: ratio(rows, ours, theirs) for name, (ours, theirs) in RATIOS.items()}
    found |= {name: wait_share(rows, slow, fast) for name, (slow, fast) in SHARES.items()}
    return {name: value for name, value in found.items() if value is not None}


def wait_share(rows: list[Row], slow: str, fast: str) -> float | None:
    """Return the share of an injected delay that towers stand still for: (its wait - the wait without it) / delay.

    The wait without the delay is that of the same round: towers also wait for each other. Median over the rounds.
    """
    named = {row.entry.name: row.rounds for row in rows}
    if not (named.get(slow) and named.get(fast)):
        return None
    return median(
        (with_delay["link_wait_ms"] - without["link_wait_ms"]) / with_delay["injected_ms"]
        for with_delay, without in zip(named[slow], named[fast], strict=True)
    )
