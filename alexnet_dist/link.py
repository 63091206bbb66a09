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
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

# torch.autograd.Function is untyped: `apply` returns Any and a context is open to any attribute.


@dataclass(frozen=True)
class Handle:
    """One exchange in flight; it keeps both buffers alive until `wait`."""

    works: tuple[dist.Work, ...]
    sent: Tensor
    received: Tensor


@dataclass
class Traffic:
    """What has crossed a link so far, and how long this rank stood waiting for it."""

    sent_bytes: int = 0
    received_bytes: int = 0
    wait_s: float = 0.0


class PairLink(Protocol):
    """A two-way line to the other tower of the replica."""

    traffic: Traffic

    def start(self, tensor: Tensor, receive_shape: Sequence[int]) -> Handle:
        """Send a tensor and begin to receive one of the same dtype; the sent one must not change before `wait`."""

    def wait(self, handle: Handle) -> Tensor:
        """Return what the other tower has sent."""


class P2PLink:
    """The link over torch.distributed, on the pair's own group: NCCL on CUDA, gloo on a CPU.

    Both directions go in one batch: send-then-receive in both towers can deadlock on NCCL.
    """

    def __init__(self, group: dist.ProcessGroup, peer: int) -> None:
        """Take the pair's group and the global rank of the other tower."""
        self._group, self._peer = group, peer
        self.traffic = Traffic()

    def start(self, tensor: Tensor, receive_shape: Sequence[int]) -> Handle:
        """Post both directions; the receive buffer is fresh, since autograd may keep the one before."""
        sent = tensor.contiguous()
        received = sent.new_empty(tuple(receive_shape))
        operations = [
            dist.P2POp(dist.isend, sent, self._peer, self._group),
            dist.P2POp(dist.irecv, received, self._peer, self._group),
        ]
        self.traffic.sent_bytes += sent.nbytes
        self.traffic.received_bytes += received.nbytes
        return Handle(tuple(dist.batch_isend_irecv(operations)), sent, received)

    def wait(self, handle: Handle) -> Tensor:
        """Wait for both directions; on CUDA only the current stream waits."""
        began_s = time.perf_counter()
        for work in handle.works:
            work.wait()
        self.traffic.wait_s += time.perf_counter() - began_s
        return handle.received


class Exchange:
    """One join's state between its `Post` and its `Take`, forward and backward."""

    def __init__(self, link: PairLink) -> None:
        """Take the link that this join uses."""
        self.link = link
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
        exchange.forward = exchange.link.start(maps, maps.shape)
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
        ctx.exchange.backward = ctx.exchange.link.start(gradient, gradient.shape)
        return gradient.new_empty(0), None


def exchange(maps: Tensor, link: PairLink) -> Callable[[], Tensor]:
    """Send my maps now; return a function that waits for the other tower's, of the same shape."""
    join = Exchange(link)
    token = _Post.apply(maps, join)  # type: ignore[no-untyped-call]

    def other_maps() -> Tensor:
        return cast("Tensor", _Take.apply(token, join))  # type: ignore[no-untyped-call]

    return other_maps


class _Gather(torch.autograd.Function):
    """Forward: both towers' logits side by side. Backward: my slice."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, link: PairLink, tower: int, classes: int) -> Tensor:
        own = logits.shape[1]
        other = link.wait(link.start(logits, (logits.shape[0], classes - own)))
        ctx.span = (0, own) if tower == 0 else (classes - own, classes)
        return torch.cat([logits, other] if tower == 0 else [other, logits], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        first, end = ctx.span
        return gradient[:, first:end], None, None, None


def gather(logits: Tensor, link: PairLink, tower: int, classes: int) -> Tensor:
    """Join the towers' logits, (B, 500) each for the paper's net, to (B, classes) in both towers."""
    return cast("Tensor", _Gather.apply(logits, link, tower, classes))  # type: ignore[no-untyped-call]
