"""Train AlexNet, or go on with a run that was stopped.

torchrun --nproc-per-node=2 launch/train.py --config configs/cifar10.yaml data.root=shards run.directory=runs/mine
python launch/train.py --config configs/one_gpu.yaml        (one process, both towers on its device)
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO

from alexnet_dist import config
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.process import die_with_parent, launch_info

RANK_0_FIRST_S = 15.0  # a busy machine takes seconds to close rank 0


def main(arguments: list[str]) -> None:
    """Train, or print the resolved configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_config_arguments(parser)
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration and where each value came from, and leave"
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="write a torch profiler's trace and summary of N steps, after the first three, into run.directory/profile",
    )
    for word in arguments:
        if word.startswith("--") and "." in word.partition("=")[0]:
            raise UserError(f"command line: {word}: a key has no dashes before it: {word.lstrip('-')}")
    with ExitStack() as quiet:
        if launch_info().rank:  # --help and a misspelt option are told by rank 0
            quiet.enter_context(redirect_stdout(StringIO()))
            quiet.enter_context(redirect_stderr(StringIO()))
        parsed = parser.parse_intermixed_args(arguments)
    if parsed.profile < 0:
        raise UserError(f"--profile: {parsed.profile}; expected the number of steps to profile, 1 or more")
    resolved = config.from_arguments(parsed)
    if parsed.print_config:
        if launch_info().rank == 0:
            print(config.print_config(resolved), end="")
        return
    from alexnet_dist.training.train import train  # torch is imported from here on: --help answers at once

    train(resolved.config, parsed.profile)


def one_voice(arguments: list[str]) -> None:
    """Run `main` on this rank so that a mistake is told once.

    Most mistakes are seen by every rank alike: rank 0 tells at once, and torchrun then ends the others, which hold
    their tongues meanwhile. What only another rank has seen, it tells itself, a little later.
    """
    rank = 0
    try:
        here = launch_info()
        rank = here.rank
        if here.under_torchrun:
            die_with_parent(os.getppid())  # before torch is imported, which takes seconds
        main(arguments)
    except UserError as error:
        if rank == 0:
            raise
        time.sleep(RANK_0_FIRST_S)
        raise UserError(f"(rank {rank}) {error}") from None
    except SystemExit as usage:
        if rank and usage.code:
            time.sleep(RANK_0_FIRST_S)
        raise


if __name__ == "__main__":
    code = run_command(one_voice)
    # All is closed. Python would now take torch apart, a second or two that torchrun and the other ranks wait for.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
