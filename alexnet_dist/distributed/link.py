"""The pair link: the transport of all point-to-point messages between the two towers of a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.distributed.lost_rank import lost_rank_at, posting
from alexnet_dist.monitoring.timeline import LINK_WAIT, Timeline

CONTIGUOUS = torch.contiguous_format


@dataclass(frozen=True)
class Handle:
    """One message in flight in each direction; it keeps both buffers alive until `wait`.

    arrives_s: for a link with an injected delay, the host clock's time before which the message has not arrived.
    staged: the copy of `sent` in host memory that is sent instead, if there is one.
    """

    join: str
    works: tuple[dist.Work, ...]
    sent: Tensor
    received: Tensor
    arrives_s: float = 0.0
    staged: Tensor | None = None


class PairLink(Protocol):
    """A two-way link to the other tower of the replica."""

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Send a tensor and begin to receive one of the same dtype; the sent one must not change before `wait`.

        join: the name under which the wait is counted and a lost tower is reported.
        """

    def wait(self, handle: Handle) -> Tensor:
        """Return what the other tower has sent."""


class P2PLink:
    """The link over torch.distributed, on the pair's own group: NCCL on CUDA, gloo on a CPU.

    Both directions go in one batch: send-then-receive in both towers can deadlock on NCCL. Start and wait are on the
    same stream, and the handle holds both buffers until the wait, so the allocator cannot reuse them earlier.
    """

    def __init__(
        self, group: dist.ProcessGroup, peer: int, timeline: Timeline, memory_format: torch.memory_format = CONTIGUOUS
    ) -> None:
        """Take the pair's group, the global rank of the other tower, and the timeline that counts waits and bytes.

        memory_format: of the maps (B, C, H, W) that cross, the same in both towers: what is sent is bytes.
        """
        self._group, self._peer, self._timeline, self._memory_format = group, peer, timeline, memory_format

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Post both directions; the receive buffer is fresh, since autograd may keep the previous one."""
        memory_format = self._memory_format if tensor.dim() == 4 else CONTIGUOUS
        sent = tensor.contiguous(memory_format=memory_format)
        received = torch.empty(
            tuple(receive_shape), dtype=sent.dtype, device=sent.device, memory_format=memory_format,
            # `is_pinned` initialises CUDA, so it is asked only where CUDA is in use.
            pin_memory=torch.cuda.is_initialized() and sent.is_pinned(),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        self._timeline.sent_bytes += sent.nbytes
        self._timeline.received_bytes += received.nbytes
        with posting(join):
            return Handle(join, self._post(_in_memory_order(sent), _in_memory_order(received)), sent, received)

    def _post(self, sent: Tensor, received: Tensor) -> tuple[dist.Work, ...]:
        operations = [
            dist.P2POp(dist.isend, sent, self._peer, self._group),
            dist.P2POp(dist.irecv, received, self._peer, self._group),
        ]
        return tuple(dist.batch_isend_irecv(operations))

    def wait(self, handle: Handle) -> Tensor:
        """Wait for both directions; on CUDA only the current stream waits."""
        with self._timeline.wait(LINK_WAIT, handle.join), lost_rank_at(handle.join):
            self._finish(handle)
        return handle.received

    def _finish(self, handle: Handle) -> None:
        for work in handle.works:
            work.wait()


class StagedLink(P2PLink):
    """A link between towers that share a GPU, over gloo and pinned host memory: a test layout.

    NCCL supports two ranks on one device only in new versions and on request; gloo sends host memory only. Each copy
    waits for the device, so nothing is hidden behind computation.
    """

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Copy to the host and post both directions there; on a CPU the copy is a plain one."""
        pinned = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)
        handle = super().start(pinned, receive_shape, join)
        return replace(handle, sent=tensor, staged=handle.sent)

    def wait(self, handle: Handle) -> Tensor:
        """Wait for both directions and copy the received tensor to the device of the sent one."""
        return super().wait(handle).to(handle.sent.device)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return a view whose dims are in the order in which elements lie in memory, as torch.distributed expects."""
    return tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1)
