"""python -m alexnet_dist.doctor: examine the machines, the data and the speed of a run in a minute, before it starts.

It takes what the run takes, and trains nothing that is kept:

python -m alexnet_dist.doctor --config cifar10 data.root=shards
torchrun --nproc-per-node=4 -m alexnet_dist.doctor --config paper data.root=/data/imagenet    (on each node)

python -m alexnet_dist.doctor chaos --help: a drill, in which a job is trained under random faults.

A check is ok, a warning, or failed: the run would not start, or would be wrong. The exit code is 1 if a check has
failed, 2 for a mistake on the command line.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO

from alexnet_dist import config as configs
from alexnet_dist.errors import PermanentError, run_command
from alexnet_dist.system.environment import launch_info
from alexnet_dist.system.signals import StopRequest
from alexnet_dist.system.wording import counted
from alexnet_dist.train import Parser, run_once


def main(arguments: list[str], _stop: StopRequest | None = None) -> None:
    """Examine a run and print the report; PermanentError if a check has failed. With `chaos` first: run the drill."""
    if arguments[:1] == ["chaos"]:
        from alexnet_dist.doctor.chaos import command

        command.main(arguments[1:])
        return
    parser = Parser(
        prog="python -m alexnet_dist.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    configs.add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    with ExitStack() as quiet:
        if launch_info().rank:  # rank 0 prints --help and misspelt options
            quiet.enter_context(redirect_stdout(StringIO()))
            quiet.enter_context(redirect_stderr(StringIO()))
        options = parser.parse_intermixed_args(arguments)
    config = configs.from_arguments(options).config
    # They import torch: --help does without it.
    from alexnet_dist.doctor import findings as reports
    from alexnet_dist.doctor.examine import examine

    found = examine(config)
    if found is None:
        return
    print(reports.to_json(found) if options.json else reports.table(found), flush=True)
    if failed := reports.failures(found):
        raise PermanentError(f"{counted(failed, 'failed check')}; see the report above")  # torchrun does not repeat it


def main_once(arguments: list[str]) -> None:
    """Run `main` so that the ranks of a job report a mistake once."""
    run_once(main, arguments)


if __name__ == "__main__":
    sys.exit(run_command(main_once))
