"""The console script: `alexnet-dist pack ...` is `python -m alexnet_dist.pack ...`, and so for every command."""

from __future__ import annotations

import difflib
import runpy
import sys

import alexnet_dist
from alexnet_dist.errors import UserError, run_command

COMMANDS = {
    "pack": "pack images into shards",
    "show": "print what a packed set holds, and draw augmented samples",
    "train": "train, or resume a run (several ranks: torchrun -m alexnet_dist.train)",
    "evaluate": "errors and loss of a run over a whole split",
    "predict": "classify images with a trained run",
    "finetune": "train a finished run's net on your own images",
    "features": "what a layer computes for images, as a file",
    "export": "write a run's net for use without this package",
    "figures": "draw a run's net, kernels, curves, predictions, neighbours and activations",
    "report": "a page about a run or several: curves, speed, faults, kernels, predictions; --live redraws it",
    "doctor": "examine a run's machines, data and speed before it starts; doctor chaos: a run under random faults",
    "paper": "compare the code with the paper claim by claim, or run its experiments",
    "benchmark": "measure ours beside named alternatives",
    "demo": "the whole job on drawn images, on this CPU",
}


def main(arguments: list[str]) -> None:
    """Run the command that the first argument names on the others. Raises UserError for an unknown command."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return
    if name == "--version":
        print(f"alexnet-dist {alexnet_dist.__version__}")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(COMMANDS)}"
        raise UserError(f"alexnet-dist: unknown command {name!r}; {hint}")
    module = f"alexnet_dist.{name}"
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _usage() -> str:
    lines = [f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: alexnet-dist [--version] COMMAND ...   (each command is also python -m alexnet_dist.COMMAND)",
            "",
            *lines,
            "",
            "alexnet-dist COMMAND --help describes a command.",
        ]
    )


def run() -> None:
    """Run the console script and exit with its code."""
    sys.exit(run_command(main))


if __name__ == "__main__":
    run()
