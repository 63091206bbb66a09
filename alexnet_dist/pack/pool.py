"""The worker processes of packing, each of which works on one item at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from alexnet_dist.errors import RunError
from alexnet_dist.system.process import die_with_parent
from alexnet_dist.system.resources import check_room_for_locks, keep_freed_memory
from alexnet_dist.system.signals import ignore_signals

Item = TypeVar("Item")
Result = TypeVar("Result")

POOL_LOCKS = 8  # more than ProcessPoolExecutor shares with its processes


def map_unordered(work: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Result]:
    """Yield `work` of each item, in the order of completion.

    On an error or an interrupt the workers are killed: an item in progress may take minutes, and rerunning the command
    repeats it. Raises RunError if a worker was killed from outside.
    """
    for done in poll_unordered(work, items, processes, None):
        yield from done


def poll_unordered(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, interval_s: float | None
) -> Iterator[list[Result]]:
    """Yield results as `map_unordered` does, but in lists, and an empty list after each `interval_s` without any."""
    if processes == 1:
        # Every image allocates and frees its buffers, thousands of times a shard.
        keep_freed_memory()
        yield from ([work(item)] for item in items)
        return
    check_room_for_locks(POOL_LOCKS)
    children_before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        min(processes, len(items)),
        # A forked child of a process with threads may hang; a spawned one does not.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_init_worker,
        initargs=(os.getpid(),),
    ) as pool:
        try:
            waiting = {pool.submit(work, item) for item in items}
            while waiting:
                done, waiting = wait(waiting, timeout=interval_s, return_when=FIRST_COMPLETED)
                yield [future.result() for future in done]
        except BrokenProcessPool as error:
            raise RunError(
                "a packing process was killed, most often because memory ran out. Rerun the command with fewer "
                "--processes; finished work is kept"
            ) from error
        except BaseException:
            # An interrupt, an error in an item, or a caller that closed this generator.
            for process in set(multiprocessing.active_children()) - children_before:
                process.kill()
            raise


def _init_worker(parent_pid: int) -> None:
    die_with_parent(parent_pid)
    keep_freed_memory()
    # Ctrl-C reaches the whole process group. The command kills its workers itself, so none prints a traceback.
    ignore_signals([signal.SIGINT])
