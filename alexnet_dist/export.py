"""python -m alexnet_dist.export RUN OUT: a run's net for use without this package, or with `plain_alexnet`.

OUT's suffix says in which format: .safetensors, weights under plain names and a description in the metadata; .onnx; or
.pt2, torch.export's. The last two contain the net: pixels, RGB of 0 to 255, in; logits and probabilities out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import add_step_argument
from alexnet_dist.errors import UserError, run_command

if TYPE_CHECKING:
    from alexnet_dist.runs.weights import named_weights as named_weights

SUFFIXES = (".safetensors", ".onnx", ".pt2")


def __getattr__(name: str) -> object:
    """Import `named_weights`, a public name of this module, when it is first used: it imports torch."""
    if name == "named_weights":
        from alexnet_dist.runs.weights import named_weights

        return named_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: list[str]) -> None:
    """Parse, load, write."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT", help=f"file to write: its name ends in {', '.join(SUFFIXES)}")
    add_step_argument(parser)
    parsed = parser.parse_args(arguments)
    if parsed.out.suffix not in SUFFIXES:
        raise UserError(f"{parsed.out}: expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if parsed.out.is_dir():
        raise UserError(f"{parsed.out}: a folder; expected the name of a file")
    # These import torch: --help does without it.
    from alexnet_dist.nn.geometry import parameter_count
    from alexnet_dist.runs import exported, graphs
    from alexnet_dist.runs.load import load_run

    write = {".safetensors": exported.write, ".onnx": graphs.write_onnx, ".pt2": graphs.write_pt2}[parsed.out.suffix]
    run = load_run(parsed.run, parsed.step)
    try:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        write(run, parsed.out)
    except OSError as error:
        raise UserError(f"{parsed.out}: cannot be written: {error.strerror}; choose another file") from None
    print(f"{parsed.out}: {parameter_count(run.model.net):,} parameters, step {run.step:,}")


if __name__ == "__main__":
    sys.exit(run_command(main))
