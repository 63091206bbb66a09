"""python -m alexnet_dist.export RUN OUT.safetensors: a run's weights as a one-device net's, under plain names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from alexnet_dist.errors import UserError, run_command
from alexnet_dist.nn.model import AlexNet, Tower, joined
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import load_run


def named_weights(model: AlexNet) -> dict[str, Tensor]:
    """Return the weights of a plain conv-ReLU-LRN-pool net that gives this model's logits.

    conv1.weight (96, 3, 11, 11), conv2.weight (256, 48, 5, 5) with two groups, conv3 (384, 256, 3, 3), ..., fc6
    (4096, 9216) with columns in (channel, y, x) order, fc8.weight (1000, 4096), and .bias; tower 0 first. Where a
    layer is followed by dropout, its keep probability is folded into the next layer's weights, and an input scale
    into the first one's.
    """
    halves = []
    for tower in model.towers:
        assert isinstance(tower, Tower)
        halves.append(joined(tower.index, {name: weight.detach() for name, weight in tower.named_parameters()}))
    weights = {name: torch.cat([halves[0][name], halves[1][name]]) for name in halves[0]}
    factor = model.net.input_scale
    for name, layer in model.net.layers.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] * factor
        factor = 1.0 - layer.dropout
    return weights


def main(arguments: list[str]) -> None:
    """Parse, load, write."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest whole one")
    parsed = parser.parse_args(arguments)
    if parsed.out.suffix != ".safetensors":
        raise UserError(f"{parsed.out}: expected a name that ends in .safetensors")
    run = load_run(parsed.run, parsed.step)
    weights = named_weights(run.model)
    try:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_tensors(parsed.out, weights, {"run": parsed.run.name, "step": str(run.step)})
    except OSError as problem:
        raise UserError(f"{parsed.out}: cannot be written: {problem.strerror}; choose another place") from None
    print(
        f"{parsed.out}: {len(weights)} tensors, {sum(w.numel() for w in weights.values()):,} numbers, step {run.step:,}"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
