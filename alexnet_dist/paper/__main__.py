"""python -m alexnet_dist.paper audit: compute what the code does and compare it with the paper and its source.

Each claim that needs no training is checked: counts, shapes, formulas, initial weights, augmentation, what crosses
between the towers, the update rule, the schedules and the views of the test. PAPER.md explains them. The exit code is
1 if a claim fails.
"""

from __future__ import annotations

import argparse
import sys

from alexnet_dist.errors import run_command


def main(arguments: list[str]) -> None:
    """Parse the arguments and run a subcommand."""
    options = _parser().parse_args(arguments)
    options.command(options)


def _audit(options: argparse.Namespace) -> None:
    """Print the audit; RunError if a claim fails."""
    # It imports torch: --help does without it.
    from alexnet_dist.paper.audit import run

    run(options.json)


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
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
