"""How torchrun's agent ends a run of this package: without a traceback of its own, and with our sentence last.

torchrun prints twenty lines of its own calls and then its report, which no reader of a run needs to see first. Other
programs that the agent has started end as they always do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, Signals
from types import TracebackType

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError

from alexnet_dist.distributed.final_error import JOINED
from alexnet_dist.distributed.post_mortem import EXIT_CODE, Diagnosis, why
from alexnet_dist.system import environment

RESUME = "the same command resumes from the last checkpoint"
STDERR = 2  # the file descriptor, to which C++ writes too


def end_with_our_sentence() -> None:
    """Have this agent, once it ends with an exception, print our sentence last if its ranks run this package.

    They make themselves known by a file in memory, of which nothing is left however the agent ends.
    """
    try:
        before, joined = sys.excepthook, os.memfd_create(JOINED)
    except OSError:  # not allowed here: the agent ends as torchrun does
        return
    environment.set_joined_file(Path(f"/proc/{os.getpid()}/fd/{joined}"))

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = last_lines(error) if os.fstat(joined).st_size else None
        if text is None:
            before(kind, error, trace)
        else:
            print(text, file=sys.stderr, flush=True)

    sys.excepthook = end


def last_lines(error: BaseException) -> str | None:
    """Return what an agent prints in place of an exception's traceback; None: it is none that a run explains."""
    if isinstance(error, ChildFailedError):
        return f"{error}\nerror: {first_reason(error.failures)}"
    if isinstance(error, SignalException):
        number = Signals(error.sigval)
        return f"torchrun: ended by {number.name}{' (Ctrl-C)' if number == SIGINT else ''}"
    if isinstance(error, DistError | RendezvousError):
        return (
            f"error: torchrun has lost its rendezvous ({type(error).__name__}): the node that serves it has ended, or"
            f" is out of reach; on all nodes, {RESUME}"
        )
    return None


def first_reason(failures: Mapping[int, ProcessFailure]) -> str:
    """Return why the ranks of an agent have failed, by rank: what the first of them says that could say something.

    A rank that lost another one, and names it, dates its end later than one that failed by itself. A process that is
    killed says nothing; if all were, the first one's signal is all that is known.
    """
    by_time = sorted(failures, key=lambda rank: failures[rank].timestamp)
    for rank in by_time:
        if Path(failures[rank].error_file).is_file() and isinstance(failures[rank].message, str):
            return failures[rank].message
    code = failures[by_time[0]].exitcode
    state = f"signal {-code}" if code < 0 else f"{EXIT_CODE} {code}"
    return f"rank {by_time[0]} {why(Diagnosis({by_time[0]: state}, certain=True), by_time[0])}; {RESUME}"


@contextmanager
def quiet() -> Iterator[None]:
    """Discard what is written to stderr meanwhile, also by C++, which reports each lost connection at length."""
    try:
        sys.stderr.flush()
        kept, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    except (AttributeError, OSError):  # it is closed: nothing is written
        yield
        return
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)
