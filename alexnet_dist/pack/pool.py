"""The processes that do the work of packing: as many as are asked for, each on one piece at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from alexnet_dist.process import die_with_parent, ignore, keep_freed_memory

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def results(work: Callable[[Piece], Result], pieces: Sequence[Piece], processes: int) -> Iterator[Result]:
    """Yield what the work on each piece returns, in the order in which they are done.

    On the way out of an error or an interrupt the pieces in hand are finished, and no more are begun.
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
    with ProcessPoolExecutor(
        min(processes, len(pieces)),
        # A forked child of a process with threads may hang; a spawned one starts clean.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(os.getpid(),),
    ) as pool:
        waiting = {pool.submit(work, piece) for piece in pieces}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=every_s, return_when=FIRST_COMPLETED)
                yield [future.result() for future in done]
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a packing process was killed, most often for want of memory. Start again, with fewer --processes: "
                "what is finished is kept"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(parent: int) -> None:
    die_with_parent(parent)
    keep_freed_memory()
    # Ctrl-C reaches the whole process group; the command decides what becomes of the pieces in hand.
    ignore([signal.SIGINT])
