"""Links within one process: one that measures what crosses, and one between two threads."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from alexnet_dist.distributed.link import Handle

Result = TypeVar("Result")


class MeasuringLink:
    """A link whose other end answers with zeros, or with nothing on the meta device; it records its calls.

    sent: name, shape and size in bytes of each message. dtypes: of the messages. events: the calls, in order.
    """

    def __init__(self) -> None:
        """Begin with no message."""
        self.sent: list[tuple[str, tuple[int, ...], int]] = []
        self.events: list[str] = []
        self.dtypes: set[torch.dtype] = set()

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Record a message."""
        self.sent.append((join, tuple(tensor.shape), tensor.numel() * tensor.element_size()))
        self.dtypes.add(tensor.dtype)
        self.events.append(f"send {join}")
        return Handle(join, (), tensor, tensor.new_zeros(tuple(receive_shape)))

    def wait(self, handle: Handle) -> Tensor:
        """Return the zeros."""
        self.events.append(f"wait {handle.join}")
        return handle.received


class ThreadLink:
    """One end of a link between two threads, which copies what it sends."""

    def __init__(self, outgoing: queue.Queue[Tensor], incoming: queue.Queue[Tensor]) -> None:
        """Take the queues of both directions."""
        self._outgoing, self._incoming = outgoing, incoming

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Send a copy."""
        self._outgoing.put(tensor.detach().clone())
        return Handle(join, (), tensor, tensor.new_empty(tuple(receive_shape)))

    def wait(self, handle: Handle) -> Tensor:
        """Wait at most a minute for what the other thread sends."""
        return handle.received.copy_(self._incoming.get(timeout=60))


def on_both(function: Callable[[int, ThreadLink], Result]) -> list[Result]:
    """Return what a function returns for each of the two towers, each in a thread with its end of a link."""
    queues: list[queue.Queue[Tensor]] = [queue.Queue(), queue.Queue()]
    links = [ThreadLink(queues[0], queues[1]), ThreadLink(queues[1], queues[0])]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(function, (0, 1), links))
