"""Tower parallelism: one process a tower, and the two joins by which the towers of a replica compute one net.

* exchange (`_Post`, `_Take`): forward, the other tower's maps; backward, the sum of both towers' gradients of own maps.
* gather (`_Gather`), for the logits only: forward, both halves concatenated; backward, the own slice and no traffic,
  because both towers compute the same loss. Exchanged like a hidden layer, the loss would be the same and every
  gradient exactly doubled.

One thread posts on a link, at fixed places of the program, so both towers post in the same order: in forward by the
order of the program; in backward because each `_Take` needs the sum for which the layer above it waited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from alexnet_dist.distributed.link import Handle, PairLink
from alexnet_dist.nn.layers import DropoutKeys
from alexnet_dist.nn.model import Tower, boundary, scaled

LOGITS, PIXELS, UPDATE = "logits", "pixels", "update"  # the joins that are not a layer's

# torch.autograd.Function is untyped: `apply` returns Any and a context is open to any attribute.


class LinkedTower(nn.Module):
    """One tower of a replica; the other tower is in another process at the far end of the link."""

    def __init__(self, tower: Tower, link: PairLink) -> None:
        """Wire a tower to the link of its pair."""
        super().__init__()
        self.tower, self.link = tower, link
        self.on_boundary: Callable[[], None] | None = None

    def forward(self, images: Tensor, dropout_keys: DropoutKeys | None = None) -> Tensor:
        """Map images (B, 3, 224, 224) to the logits of both towers (B, classes), equal in both processes."""
        maps = self.tower.stage(0, scaled(images, self.tower.net), None, dropout_keys)
        if self.on_boundary is not None:
            (maps,) = boundary([maps], self.on_boundary)
        for stage in range(1, len(self.tower.stage_names)):
            join = self.tower.stage_names[stage][0]
            maps = self.tower.stage(stage, maps, exchange(maps, self.link, join), dropout_keys)
        return gather(maps, self.link, self.tower.index, self.tower.net.classes)


class Exchange:
    """The state of one join between its `_Post` and its `_Take`, forward and backward."""

    def __init__(self, link: PairLink, join: str) -> None:
        """Take the link that this join uses, and its name."""
        self.link, self.join = link, join
        self.forward: Handle | None = None
        self.backward: Handle | None = None


def both_towers(own: bool, link: PairLink, device: torch.device) -> bool:
    """Return whether a statement holds in both towers; each waits for the other's answer. device: of the link."""
    answer = torch.tensor([float(own)], device=device)
    return bool(own and link.wait(link.start(answer, (1,), UPDATE)).item())


def _wait(link: PairLink, handle: Handle | None) -> Tensor:
    assert handle is not None, "an exchange is waited for once, after it was started"
    return link.wait(handle)


class _Post(torch.autograd.Function):
    """Forward: send the own maps. Backward: wait for the other tower's gradient of them."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.forward = exchange.link.start(maps, maps.shape, f"{exchange.join} forward")
        # The token orders _Take after _Post. It lives on the maps' device, so that autograd runs both in one queue.
        return maps.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _token: Tensor) -> tuple[Tensor, None]:
        gradient = _wait(ctx.exchange.link, ctx.exchange.backward)
        ctx.exchange.backward = None
        return gradient, None


class _Take(torch.autograd.Function):
    """Forward: wait for the other tower's maps. Backward: send their gradient."""

    @staticmethod
    def forward(ctx: Any, _token: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        maps = _wait(exchange.link, exchange.forward)
        exchange.forward = None
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        exchange: Exchange = ctx.exchange
        exchange.backward = exchange.link.start(gradient, gradient.shape, f"{exchange.join} backward")
        return gradient.new_empty(0), None


def exchange(maps: Tensor, link: PairLink, join: str) -> Callable[[], Tensor]:
    """Send the own maps now; return a function that waits for the other tower's, of the same shape.

    join: the name of the layer that reads both.
    """
    state = Exchange(link, join)
    token = _Post.apply(maps, state)  # type: ignore[no-untyped-call]

    def other_maps() -> Tensor:
        return cast("Tensor", _Take.apply(token, state))  # type: ignore[no-untyped-call]

    return other_maps


class _Gather(torch.autograd.Function):
    """Forward: concatenate both towers' logits. Backward: take the own slice."""

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
    """Concatenate the towers' logits, (B, 500) each for the paper's net, to (B, classes) in both towers."""
    return cast("Tensor", _Gather.apply(logits, link, tower, classes))  # type: ignore[no-untyped-call]
