"""A pair link that is slower than this machine's, to measure on a CPU how much of a slow wire is hidden."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed.link import Handle, P2PLink
from alexnet_dist.monitoring.timeline import Timeline


class DelayedLink(P2PLink):
    """A link with an injected time per byte received; for tests and benchmarks on a CPU.

    Its exchanges are hidden behind computation as those of a slow wire would be. When `blocking`, each is waited for
    where it is sent: the difference is what hiding them is worth.
    """

    def __init__(
        self, group: dist.ProcessGroup, peer: int, timeline: Timeline, ns_per_byte: float = 0.0, blocking: bool = False
    ) -> None:
        """Take what P2PLink takes, the delay, and whether each exchange is waited for at once."""
        super().__init__(group, peer, timeline)
        self._ns_per_byte, self._blocking = ns_per_byte, blocking

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Post both directions and note when they will have arrived."""
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
