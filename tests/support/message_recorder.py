"""Records the messages of a rank's device communicators while it trains: the pair's and the data-parallel group's.

Messages of the group `world` are left out: they carry host tensors over gloo and never run on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed import data_parallel, link
from alexnet_dist.distributed.groups import Groups, open_groups
from support.message_order import Buffer, Event, Group, Part, Post, Wait


class RecordedWork:
    """A message in flight; `wait` is recorded."""

    def __init__(self, work: dist.Work, on_wait: Callable[[], None]) -> None:
        self._work, self._on_wait = work, on_wait

    def wait(self) -> None:
        self._on_wait()
        self._work.wait()


class Recorder:
    """Stands between link.py, data_parallel.py and torch.distributed in this process, and keeps what they post."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._groups: dict[dist.ProcessGroup, Group] = {}
        self._name = ""

    def install(self) -> None:
        """Record from now on, in the groups that `open_groups` will return."""
        vars(dist).update(
            batch_isend_irecv=self._recorded_batch(dist.batch_isend_irecv),
            all_reduce=self._recorded_sum(dist.all_reduce),
            broadcast=self._recorded_broadcast(dist.broadcast),
        )
        for module in (link, data_parallel):
            vars(module)["posting"] = self._naming(vars(module)["posting"])

    def open_groups(self, *arguments: Any) -> Groups:
        """Open the groups as groups.py does; what they carry from then on is recorded."""
        groups = open_groups(*arguments)
        for name, group in (("pair", groups.pair), ("data-parallel", groups.dp)):
            if group is not None:
                self._groups[group] = Group(name, tuple(dist.get_process_group_ranks(group)))
        return groups

    def _naming(self, posting: Callable[..., Any]) -> Callable[..., Any]:
        """Return `posting`, which also notes the name of the message that is posted inside."""

        @contextmanager
        def named(operation: str) -> Iterator[None]:
            self._name = operation
            with posting(operation):
                yield
            self._name = ""

        return named

    def _post(self, group: dist.ProcessGroup, *parts: Part) -> Callable[[], None]:
        """Record a message; return what records the wait for it."""
        number, name = len(self.events), self._name or parts[0].verb
        self.events.append(Post(number, name, self._groups[group], parts))
        return lambda: self.events.append(Wait(number, name))

    def _recorded_batch(self, batch: Callable[..., list[dist.Work]]) -> Callable[..., list[dist.Work]]:
        def recorded(operations: list[dist.P2POp]) -> list[dist.Work]:
            parts = [
                Part("send" if one.op is dist.isend else "receive", one.peer, buffer_of(one.tensor))
                for one in operations
            ]
            waited = self._post(operations[0].group, *parts)
            *works, last = batch(operations)
            return [*works, cast("dist.Work", RecordedWork(last, waited))]

        return recorded

    def _recorded_sum(self, all_reduce: Callable[..., dist.Work]) -> Callable[..., dist.Work]:
        def recorded(tensor: Tensor, *, group: dist.ProcessGroup, async_op: bool) -> dist.Work:
            waited = self._post(group, Part("sum", None, buffer_of(tensor)))
            return cast("dist.Work", RecordedWork(all_reduce(tensor, group=group, async_op=async_op), waited))

        return recorded

    def _recorded_broadcast(self, broadcast: Callable[..., None]) -> Callable[..., None]:
        def recorded(tensor: Tensor, *, group: dist.ProcessGroup, group_src: int) -> None:
            root = dist.get_global_rank(group, group_src)
            waited = self._post(group, Part("broadcast", root, buffer_of(tensor)))
            broadcast(tensor, group=group, group_src=group_src)
            waited()

        return recorded


def buffer_of(tensor: Tensor) -> Buffer:
    """Return how a tensor lies in memory."""
    return Buffer(tuple(tensor.shape), tensor.stride(), str(tensor.dtype).removeprefix("torch."))
