"""python -m alexnet_dist.export RUN OUT.safetensors: a run's weights as a one-device net's, under plain names."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.errors import UserError, run_command

if TYPE_CHECKING:
    from alexnet_dist.runs.weights import named_weights as named_weights


def __getattr__(name: str) -> object:
    """Import `named_weights`, a public name of this module, when it is first used: it imports torch."""
    if name == "named_weights":
        from alexnet_dist.runs.weights import named_weights

        return named_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: list[str]) -> None:
    """Parse, load, write."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--step", type=int, help="checkpoint to take; default: the newest that verifies")
    parsed = parser.parse_args(arguments)
    if parsed.out.suffix != ".safetensors":
        raise UserError(f"{parsed.out}: expected a name that ends in .safetensors")
    # These import torch: --help does without it.
    from alexnet_dist.runs import checkpoint
    from alexnet_dist.runs.load import load_run
    from alexnet_dist.runs.weights import named_weights

    run = load_run(parsed.run, parsed.step)
    weights = named_weights(run.model)
    try:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_tensors(parsed.out, weights, {"run": parsed.run.name, "step": str(run.step)})
    except OSError as error:
        raise UserError(f"{parsed.out}: cannot be written: {error.strerror}; choose another file") from None
    numbers = sum(weight.numel() for weight in weights.values())
    print(f"{parsed.out}: {len(weights)} tensors, {numbers:,} numbers, step {run.step:,}")


if __name__ == "__main__":
    sys.exit(run_command(main))
