"""The norm alone, forward and backward, on the shapes of the net's two: ours tower by tower, torch's on all maps."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.nn.geometry import Norm, shapes
from alexnet_dist.nn.layers import local_response_norm
from alexnet_dist.system import resources

WARM_UP = 2  # repetitions


def measure(kind: str, batch: int, repeats: int, threads: int, width_divisor: int = 1) -> dict[str, float]:
    """Return the images a second through both norms and back; kind: "torch", or ours: "eager", "compiled"."""
    resources.keep_freed_memory()
    torch.set_num_threads(threads)
    seconds = median(repetitions_s(kind, batch, WARM_UP + repeats, width_divisor)[WARM_UP:])
    return {"images_per_second": batch / seconds, "step_ms": 1000 * seconds}


def repetitions_s(kind: str, batch: int, repeats: int, width_divisor: int) -> list[float]:
    """Return the seconds of each repetition, over (batch, 96, 55, 55) and (batch, 256, 27, 27) in the paper's net."""
    net = plain_nets.geometry(width_divisor)
    normalise = _norm_function(kind, net.norm)
    towers = 1 if kind == "torch" else 2
    sizes = [(shape.channels, shape.convolved_side) for shape in shapes(net) if net.layers[shape.name].norm]
    inputs = [
        torch.rand(batch, channels // towers, side, side, requires_grad=True)
        for channels, side in sizes
        for _ in range(towers)
    ]
    gradients = [torch.rand_like(maps) for maps in inputs]
    times_s = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        for maps, gradient in zip(inputs, gradients, strict=True):
            torch.autograd.grad(normalise(maps), maps, gradient)
        times_s.append(time.perf_counter() - began_s)
    return times_s


def _norm_function(kind: str, norm: Norm) -> Callable[[Tensor], Tensor]:
    if kind == "torch":
        return partial(F.local_response_norm, size=norm.size, alpha=norm.alpha * norm.size, beta=norm.beta, k=norm.k)
    return partial(local_response_norm, norm=norm, is_compiled=kind == "compiled")
