"""Train AlexNet, or resume a run that was stopped.

torchrun --nproc-per-node=2 launch/train.py --config configs/cifar10.yaml data.root=shards run.directory=runs/mine
torchrun --nproc-per-node=2 -m alexnet_dist.train --config cifar10 ...      (the same, without a checkout)
python launch/train.py --config configs/one_gpu.yaml                        (one process, both towers on its device)
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from signal import SIGTERM
from typing import NoReturn

from alexnet_dist import config as configs
from alexnet_dist.distributed import final_error
from alexnet_dist.errors import (
    LostRankRunError,
    PermanentError,
    RollbackError,
    RunError,
    UserError,
    exit_code_of,
    run_command,
)
from alexnet_dist.system.environment import LaunchInfo, launch_info, spin_briefly, write_error_file
from alexnet_dist.system.process import die_with_parent, has_lost_sibling, run_again
from alexnet_dist.system.signals import GROUP_SIGNALS, START_GRACE_S, StopRequest, print_error

RANK_0_FIRST_S = 15.0  # a busy machine takes seconds to close rank 0
# How much later than its own end a rank that lost another one dates it: torchrun takes the earliest end as the root
# cause, and dates that of a killed rank when it sees it, which can be 30 s later.
LOST_RANK_DELAY_S = 60.0


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a sentence, which torchrun's agent can repeat, and not a page on stderr."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"command line: {message}; --help lists the options")


def main(arguments: list[str], stop: StopRequest | None = None) -> None:
    """Train, or print the resolved configuration; stop: what watches this process's signals."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configs.add_config_arguments(parser)
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration and the source of each value, and exit"
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="write a torch profiler's trace and summary of N steps, after the first three, into run.directory/profile",
    )
    parser.add_argument(
        "--unsafe-fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="for tests of this package: let a rank harm itself, such as rank=2,step=7,phase=forward,kind=kill",
    )
    for argument in arguments:
        if argument.startswith("--") and "." in argument.partition("=")[0]:
            raise UserError(f"command line: {argument}: a key takes no dashes: {argument.lstrip('-')}")
    with ExitStack() as quiet:
        if launch_info().rank:  # rank 0 prints --help
            quiet.enter_context(redirect_stdout(StringIO()))
        parsed = parser.parse_intermixed_args(arguments)
    if parsed.profile < 0:
        raise UserError(f"--profile: {parsed.profile}; expected the number of steps to profile, 1 or more")
    resolved = configs.from_arguments(parsed)
    if parsed.print_config:
        if launch_info().rank == 0:
            print(configs.print_config(resolved), end="")
        return
    # They import torch: --help does without it.
    from alexnet_dist.data.remote import folder
    from alexnet_dist.report.written import write_at_end  # now: at the end of the run the package may have changed
    from alexnet_dist.training.faults import parse_fault
    from alexnet_dist.training.train import train

    faults = [parse_fault(text) for text in parsed.unsafe_fault]
    is_finished = train(resolved.config, parsed.profile, stop, faults, resolved.origins)
    if is_finished and resolved.config.run.report and launch_info().rank == 0:
        write_at_end(folder("run.directory", resolved.config.run.directory))


def main_once(arguments: list[str]) -> None:
    """Run `main` on this rank so that a mistake is reported once."""
    run_once(main, arguments)


def run_once(command: Callable[[list[str], StopRequest | None], None], arguments: list[str]) -> None:
    """Run a command on this rank so that a mistake is reported once; command: takes what watches signals, too.

    Every rank sees most mistakes: rank 0 reports at once, and torchrun then ends the others, which wait silently. A
    mistake that only another rank sees is reported by that rank, a little later. torchrun's agent learns of a mistake,
    and of any other error in which a restart would end again, and does not restart the run.
    """
    launched, stop = launch_info(), None
    try:
        if launched.under_torchrun:  # before torch is imported, which takes seconds
            stop = StopRequest(
                GROUP_SIGNALS, START_GRACE_S, final_error.is_reported, lambda late: _end_job(late, launched)
            )
            die_with_parent(os.getppid())
            final_error.join()
        command(arguments, stop)
    except RollbackError as error:
        if stop:  # the request would be forgotten
            raise
        if launched.rank == 0:
            print(f"warning: {error}", file=sys.stderr, flush=True)
        run_again()
    except UserError as error:
        failed_s, message = time.time(), str(error)
        if launched.rank:
            if not error.one_rank:
                _let_rank_0_report(stop)
            message = f"(rank {launched.rank}) {error}"
        write_error_file(message, failed_s)
        final_error.report(message, launched, exit_code_of(error))
        raise UserError(message) from None
    except Exception as error:
        lost = isinstance(error, LostRankRunError)
        message = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        write_error_file(message, time.time() + (LOST_RANK_DELAY_S if lost else 0.0))
        if isinstance(error, PermanentError) or (isinstance(error, LostRankRunError) and error.permanent):
            final_error.report(message, launched, exit_code_of(error))
        raise


def _end_job(late: str, launched: LaunchInfo) -> None:
    """Report that this rank was asked to stop and cannot wait for the others: a restart would train to the end.

    If another rank is gone, the agent asks all to stop because it is about to restart them.
    """
    print_error(late)
    if has_lost_sibling(launched.local_world_size):
        return
    final_error.report(f"asked to stop before the first step; {late}", launched, 128 + SIGTERM)


def _let_rank_0_report(stop: StopRequest | None) -> None:
    """Wait until torchrun ends this rank, because rank 0 has reported the mistake, or until it is late."""
    if stop is not None and stop.wait(RANK_0_FIRST_S):
        os._exit(128 + SIGTERM)


def run() -> NoReturn:
    """Run the command and leave the process at once with its exit code.

    All is closed by then: Python's own exit would tear torch down, for which torchrun and the other ranks wait a second
    or two.
    """
    spin_briefly()
    code = run_command(main_once)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None: the process was started without it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
