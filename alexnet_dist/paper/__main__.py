"""python -m alexnet_dist.paper audit|run: compare the code with the paper, or run one of the paper's experiments.

audit checks each claim that needs no training: counts, shapes, formulas, initial weights, augmentation, what crosses
between the towers, the update rule, the schedules and the views of the test. PAPER.md explains them. The exit code is
1 if a claim fails.

run trains the arms of an experiment on CIFAR-10, packed with --size 32, and prints and draws their comparison. It may
be stopped at any time: the same command continues.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alexnet_dist.config import positive
from alexnet_dist.errors import run_command


def main(arguments: list[str]) -> None:
    """Parse the arguments and run a subcommand."""
    options = _parser().parse_args(arguments)
    options.command(options)


def _audit(options: argparse.Namespace) -> None:
    """Print the audit; RunError if a claim fails."""
    # It imports torch: --help does without it.
    from alexnet_dist.paper.audit.run import run_audit

    run_audit(options.json)


def _run(options: argparse.Namespace) -> None:
    """Train an experiment's arms and print their comparison."""
    # It imports torch: --help does without it.
    from alexnet_dist.paper.experiments.run import run_experiment

    out = options.out or Path("runs") / options.experiment
    run_experiment(options.experiment, options.data, out, options.budget, options.seeds, options.parallel)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    audit = commands.add_parser("audit", help="compare the code with each claim that needs no training")
    audit.add_argument("--json", action="store_true", help="print one line of JSON for each claim instead of a table")
    audit.set_defaults(command=_audit)
    run = commands.add_parser("run", help="train the arms of an experiment, and print and draw their comparison")
    run.add_argument("experiment", choices=("ablations", "figure1"))
    run.add_argument("--data", type=Path, required=True, help="folder that alexnet_dist.pack wrote, with --size 32")
    run.add_argument("--out", type=Path, help="folder of the runs, the table and the picture; default: runs/EXPERIMENT")
    run.add_argument("--budget", type=positive(float), required=True, metavar="HOURS", help="to stop after")
    run.add_argument("--seeds", type=positive(int), default=1, help="runs of each arm (default: 1)")
    run.add_argument("--parallel", type=positive(int), help="runs at a time (default: one for each CPU core)")
    run.set_defaults(command=_run)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
