"""python -m alexnet_dist.doctor: examine the machines, the data and the speed of a run in a minute, before it starts.

It takes what the run takes, and trains nothing that is kept:

python -m alexnet_dist.doctor --config cifar10 data.root=shards
torchrun --nproc-per-node=4 -m alexnet_dist.doctor --config paper data.root=/data/imagenet    (on each node)

A check is ok, a warning, or failed: the run would not start, or would be wrong. The exit code is 1 if a check has
failed, 2 for a mistake on the command line.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO

from alexnet_dist import config as configs
from alexnet_dist.distributed import final_error
from alexnet_dist.errors import RunError, run_command
from alexnet_dist.process import launch_info, write_error_file


def main(arguments: list[str]) -> None:
    """Examine a run and print the report; RunError if a check has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    configs.add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    launched = launch_info()
    with ExitStack() as quiet:
        if launched.rank:  # rank 0 prints --help and misspelt options
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
        message = f"{failed} check(s) have failed; see the report above"
        write_error_file(message, time.time())
        final_error.report(message, launched, 1)
        raise RunError(message)


if __name__ == "__main__":
    sys.exit(run_command(main))
