"""The processes that do the work of packing: as many as are asked for, each on one piece at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from alexnet_dist.errors import RunError
from alexnet_dist.process import die_with_parent, ignore, keep_freed_memory

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def results(work: Callable[[Piece], Result], pieces: Sequence[Piece], processes: int) -> Iterator[Result]:
    """Yield what the work on each piece returns, in the order in which they are done.

    On the way out of an error or an interrupt the processes are killed: a piece in hand may take minutes more, and
    the same command makes it anew. Raises RunError where one of them was killed by somebody else.
    """
    for done in ticking(work, pieces, processes, None):
        yield from done


def ticking(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], processes: int, every_s: float | None
) -> Iterator[list[Result]]:
    """Yield lists of results as they come, and an empty one whenever `every_s` pass without any."""
    if processes == 1:
        # An image's buffers are freed and allocated anew a thousand times a shard.
        keep_freed_memory()
        yield from ([work(piece)] for piece in pieces)
        return
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        min(processes, len(pieces)),
        # A forked child of a process with threads may hang; a spawned one starts clean.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(os.getpid(),),
    ) as pool:
        try:
            waiting = {pool.submit(work, piece) for piece in pieces}
            while waiting:
                done, waiting = wait(waiting, timeout=every_s, return_when=FIRST_COMPLETED)
                yield [future.result() for future in done]
        except BrokenProcessPool as error:
            raise RunError(
                "a packing process was killed, most often for want of memory. Start again, with fewer --processes: "
                "what is finished is kept"
            ) from error
        except BaseException:
            # An interrupt, an error of a piece, or a caller who wants no more.
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _start(parent: int) -> None:
    die_with_parent(parent)
    keep_freed_memory()
    # Ctrl-C reaches the whole process group; the command kills its processes itself, without a traceback of each.
    ignore([signal.SIGINT])
