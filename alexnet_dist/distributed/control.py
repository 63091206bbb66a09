"""What all ranks decide together: the status sum of each step, and work that rank 0 does for all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist

from alexnet_dist.distributed.groups import close_groups
from alexnet_dist.distributed.lost_rank import CONTROL, lost_rank_at
from alexnet_dist.distributed.status_sum import PendingSum
from alexnet_dist.errors import UserError

Answer = TypeVar("Answer")


class Control:
    """Sums and objects shared by all ranks, over gloo between hosts.

    The status sum of a step is posted when the step is finished and read at a fixed point one step later, so every rank
    learns of a signal, a loss or a fault at the same step, and acts at the same step.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Take the group of all ranks; None: a run of one process."""
        self._group, self._is_whole = group, True

    def post(self, numbers: Sequence[float]) -> PendingSum:
        """Begin to sum this rank's numbers over all ranks."""
        return PendingSum(numbers, self._group)

    def wait(self, pending: PendingSum) -> list[float]:
        """Return the sums, the same on every rank; those that were posted first are waited for first."""
        return pending.finish()

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over all ranks at once."""
        return self.wait(self.post(numbers))

    def gather(self, text: str) -> list[str]:
        """Return every rank's text, by rank."""
        if self._group is None:
            return [text]
        texts: list[str | None] = [None] * dist.get_world_size(self._group)
        with lost_rank_at(CONTROL):
            dist.all_gather_object(texts, text, group=self._group)
        return [str(text_of_rank) for text_of_rank in texts]

    def meet(self, timeout_s: float) -> None:
        """Wait until all ranks are here, but no longer than so many seconds."""
        if self._group is None:
            return
        try:
            dist.monitored_barrier(self._group, timedelta(seconds=timeout_s))
        except RuntimeError:  # a rank is gone or late
            self._is_whole = False

    def close_groups(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave the process groups, except after an error or without a rank: that would wait for its messages."""
        if error is None and self._is_whole:
            close_groups()

    def run_on_rank0(self, work: Callable[[], Answer]) -> Answer:
        """Run `work` on rank 0 and return its answer on every rank.

        Raises rank 0's UserError on rank 0, and another one on all other ranks, so that none waits for a rank that has
        left.
        """
        if self._group is None:
            return work()
        answer: list[Answer | None] = [None]
        failure: UserError | None = None
        if dist.get_rank() == 0:
            try:
                answer = [work()]
            except UserError as error:
                failure = error
        shared = [failure is not None, *answer]
        with lost_rank_at(CONTROL):
            dist.broadcast_object_list(shared, group=self._group, group_src=0)
        if failure is not None:
            raise failure
        if shared[0]:
            raise UserError("rank 0 rejected the run; see its error")
        return cast("Answer", shared[1])


class StopPoll:
    """Whether any rank was asked to stop: asked of all ranks at each call, and known one call later."""

    def __init__(self, control: Control, stop_requested: Callable[[], bool]) -> None:
        """Take what connects the ranks, and what returns whether this rank was asked to stop."""
        self._control, self._stop_requested = control, stop_requested
        self._pending: deque[PendingSum] = deque()

    def __call__(self) -> bool:
        """Ask once more and return the answer to the previous question; the same on every rank."""
        self._pending.append(self._control.post([float(self._stop_requested())]))
        return len(self._pending) > 1 and self._control.wait(self._pending.popleft())[0] > 0

    def drain(self) -> bool:
        """Return the answer to the questions that are still open."""
        answers = [self._control.wait(pending)[0] > 0 for pending in self._pending]
        self._pending.clear()
        return any(answers)
