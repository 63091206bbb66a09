"""The pair link: all point-to-point traffic between the two towers of a replica, and the joins made of it.

There are two joins, each a named pair of a forward and a backward:

* exchange (`Post`, `Take`): forward, the other tower's maps; backward, the sum of both towers' gradients of mine.
* gather (`Gather`), for the logits only: forward, both halves side by side; backward, my slice and no traffic,
  because both towers compute the same loss. Joined like a hidden layer the loss would be the same and every
  gradient exactly doubled.

One thread posts on a link, at fixed places of the program, so that both towers post in the same order: in forward by
the program's order; in backward because each `Take` needs the sum that the layer above it waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_dist.monitoring.timeline import LINK_WAIT, Timeline, posting

CONTIGUOUS = torch.contiguous_format
LOGITS, PIXELS = "logits", "pixels"  # the joins that are not a layer's

# torch.autograd.Function is untyped: `apply` returns Any and a context is open to any attribute.


@dataclass(frozen=True)
class Handle:
    """One exchange in flight; it keeps both buffers alive until `wait`.

    arrives_s: the host's clock before which it has not arrived, for a link with a delay. staged: what is sent, where
    that is a copy of `sent` in host memory.
    """

    join: str
    works: tuple[dist.Work, ...]
    sent: Tensor
    received: Tensor
    arrives_s: float = 0.0
    staged: Tensor | None = None


class PairLink(Protocol):
    """A two-way line to the other tower of the replica."""

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Send a tensor and begin to receive one of the same dtype; the sent one must not change before `wait`.

        join: what the exchange is for, by which its wait is counted and a lost tower is told.
        """

    def wait(self, handle: Handle) -> Tensor:
        """Return what the other tower has sent."""


class P2PLink:
    """The link over torch.distributed, on the pair's own group: NCCL on CUDA, gloo on a CPU.

    Both directions go in one batch: send-then-receive in both towers can deadlock on NCCL. Start and wait are on the
    same stream, and the handle holds both buffers until the wait, so the allocator cannot give them away before.
    """

    def __init__(
        self, group: dist.ProcessGroup, peer: int, timeline: Timeline, memory_format: torch.memory_format = CONTIGUOUS
    ) -> None:
        """Take the pair's group, the global rank of the other tower, and where waits and bytes are noted.

        memory_format: of the maps (B, C, H, W) that cross, the same in both towers: what is sent is bytes.
        """
        self._group, self._peer, self._timeline, self._memory_format = group, peer, timeline, memory_format

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Post both directions; the receive buffer is fresh, since autograd may keep the one before."""
        memory_format = self._memory_format if tensor.dim() == 4 else CONTIGUOUS
        sent = tensor.contiguous(memory_format=memory_format)
        received = torch.empty(
            tuple(receive_shape), dtype=sent.dtype, device=sent.device, memory_format=memory_format,
            # Asked only where CUDA is up: to answer, torch would bring it up, for a run on the CPU too.
            pin_memory=torch.cuda.is_initialized() and sent.is_pinned(),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        self._timeline.sent_bytes += sent.nbytes
        self._timeline.received_bytes += received.nbytes
        with posting(join):
            return Handle(join, self._post(_in_order(sent), _in_order(received)), sent, received)

    def _post(self, sent: Tensor, received: Tensor) -> tuple[dist.Work, ...]:
        operations = [
            dist.P2POp(dist.isend, sent, self._peer, self._group),
            dist.P2POp(dist.irecv, received, self._peer, self._group),
        ]
        return tuple(dist.batch_isend_irecv(operations))

    def wait(self, handle: Handle) -> Tensor:
        """Wait for both directions; on CUDA only the current stream waits."""
        with self._timeline.wait(LINK_WAIT, handle.join):
            self._finish(handle)
        return handle.received

    def _finish(self, handle: Handle) -> None:
        for work in handle.works:
            work.wait()


class StagedLink(P2PLink):
    """A link between towers that share a GPU, over gloo and pinned host memory: a test layout.

    NCCL takes two ranks on one device only where it is new and told to, and gloo sends host memory only. Each copy
    waits for the device, so nothing hides behind work.
    """

    def start(self, tensor: Tensor, receive_shape: Sequence[int], join: str) -> Handle:
        """Copy to the host and post both directions there; on a CPU the copy is a plain one."""
        pinned = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)
        handle = super().start(pinned, receive_shape, join)
        return replace(handle, sent=tensor, staged=handle.sent)

    def wait(self, handle: Handle) -> Tensor:
        """Wait for both directions and copy what has come to the device of what was sent."""
        return super().wait(handle).to(handle.sent.device)


class DelayedLink(P2PLink):
    """A link that is slower than the machine's, by a time a byte received; for tests and benchmarks on a CPU.

    Its exchanges hide behind work as those of a slow wire would, or, when `blocking`, are waited for where they are
    sent: what hiding them is worth is the difference.
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


def _in_order(tensor: Tensor) -> Tensor:
    """Return a view whose elements lie in memory in the order of its dims, as torch.distributed wants them."""
    return tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1)


class Exchange:
    """One join's state between its `Post` and its `Take`, forward and backward."""

    def __init__(self, link: PairLink, join: str) -> None:
        """Take the link that this join uses, and its name."""
        self.link, self.join = link, join
        self.forward: Handle | None = None
        self.backward: Handle | None = None


def _waited(link: PairLink, handle: Handle | None) -> Tensor:
    assert handle is not None, "an exchange is waited for once, after it was started"
    return link.wait(handle)


class _Post(torch.autograd.Function):
    """Forward: send my maps. Backward: wait for the other tower's gradient of them."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.forward = exchange.link.start(maps, maps.shape, f"{exchange.join} forward")
        # The token orders Take after Post. It lives on the maps' device, so that autograd runs both in one queue.
        return maps.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _token: Tensor) -> tuple[Tensor, None]:
        gradient = _waited(ctx.exchange.link, ctx.exchange.backward)
        ctx.exchange.backward = None
        return gradient, None


class _Take(torch.autograd.Function):
    """Forward: wait for the other tower's maps. Backward: send their gradient."""

    @staticmethod
    def forward(ctx: Any, _token: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        maps = _waited(exchange.link, exchange.forward)
        exchange.forward = None
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exchange: Exchange = ctx.exchange
        exchange.backward = exchange.link.start(gradient, gradient.shape, f"{exchange.join} backward")
        return gradient.new_empty(0), None


def exchange(maps: Tensor, link: PairLink, join: str) -> Callable[[], Tensor]:
    """Send my maps now; return a function that waits for the other tower's, of the same shape.

    join: the name of the layer that reads both.
    """
    state = Exchange(link, join)
    token = _Post.apply(maps, state)  # type: ignore[no-untyped-call]

    def other_maps() -> Tensor:
        return cast("Tensor", _Take.apply(token, state))  # type: ignore[no-untyped-call]

    return other_maps


class _Gather(torch.autograd.Function):
    """Forward: both towers' logits side by side. Backward: my slice."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, link: PairLink, tower: int, classes: int) -> Tensor:
        own = logits.shape[1]
        other = link.wait(link.start(logits, (logits.shape[0], classes - own), LOGITS))
        ctx.span = (0, own) if tower == 0 else (classes - own, classes)
        return torch.cat([logits, other] if tower == 0 else [other, logits], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        first, end = ctx.span
        return gradient[:, first:end], None, None, None


def gather(logits: Tensor, link: PairLink, tower: int, classes: int) -> Tensor:
    """Join the towers' logits, (B, 500) each for the paper's net, to (B, classes) in both towers."""
    return cast("Tensor", _Gather.apply(logits, link, tower, classes))  # type: ignore[no-untyped-call]
