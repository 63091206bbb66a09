"""A pair link with an injected delay, to measure on a CPU how much of a slow link is hidden behind computation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed.link import Handle, P2PLink
from alexnet_dist.monitoring.timeline import Timeline


class DelayedLink(P2PLink):
    """A link with a delay for each byte received, for tests and benchmarks on a CPU.

    Computation hides its exchanges like those of a slow link. With `blocking`, `start` waits for the exchange: the
    difference in time is what hiding saves.
    """

    def __init__(
        self, group: dist.ProcessGroup, peer: int, timeline: Timeline, ns_per_byte: float = 0.0, blocking: bool = False
    ) -> None:
        """Take the arguments of P2PLink, the delay, and whether `start` waits for each exchange."""
        super().__init__(group, peer, timeline)
        self._ns_per_byte, self._blocking = ns_per_byte, blocking

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Post both directions and record when they will have arrived."""
        handle = super().start(tensor, receive_shape, join)
        handle = replace(handle, arrives_s=time.perf_counter() + handle.received.nbytes * self._ns_per_byte * 1e-9)
        if self._blocking:
            super().wait(handle)
        return handle

    def wait(self, handle: Handle) -> Tensor:
        """Wait for both directions and for the rest of the delay."""
        return handle.received if self._blocking else super().wait(handle)

    def _finish(self, handle: Handle) -> None:
        super()._finish(handle)
        time.sleep(max(0.0, handle.arrives_s - time.perf_counter()))
