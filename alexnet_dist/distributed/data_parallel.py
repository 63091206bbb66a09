"""Data parallelism: gradients summed over the replicas, tower by tower, while backward still runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parameter import Parameter

from alexnet_dist.distributed.lost_rank import AVERAGING, lost_rank_at, posting
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.monitoring.timeline import ALLREDUCE_WAIT, Timeline
from alexnet_dist.nn.model import AlexNet, Tower

SMALL = 4096  # elements: gradients below this share one message

AllReduce = Callable[[Tensor, dist.ProcessGroup], dist.Work]


def all_reduce(tensor: Tensor, group: dist.ProcessGroup) -> dist.Work:
    """Begin to sum a tensor over a group, in place."""
    return cast("dist.Work", dist.all_reduce(tensor, group=group, async_op=True))


class Reducer:
    """Sums gradients over the replicas, tower by tower, in fixed buckets.

    Not DistributedDataParallel: it rebuilds its buckets after the first step, and gloo's sum of three or more ranks
    depends on an element's position in its bucket, so a resumed run would differ from an undisturbed one.

    No sum is in flight together with an exchange of the step: the sums of conv3 and above are launched when the
    gradient of stage 0's output is complete, that is, after the wait for the last exchange of backward, and travel
    while conv2 and conv1 compute. The sums of those two follow after backward. The next batch's pixels, posted just
    before the first sum, may still be in flight: every rank posts in this order, and NCCL keeps it
    (environment.prepare_cuda).
    """

    def __init__(
        self,
        model: AlexNet | LinkedTower,
        group: dist.ProcessGroup | None,
        timeline: Timeline,
        reduce: AllReduce = all_reduce,
    ) -> None:
        """Hook a model's stage boundary; without a group (one replica) nothing is ever sent."""
        towers = list(model.towers) if isinstance(model, AlexNet) else [model.tower]
        self._early: list[Parameter] = []
        self._late: list[Parameter] = []
        for tower in towers:
            assert isinstance(tower, Tower)
            for name, parameter in tower.named_parameters():
                (self._late if name.split(".")[0] in tower.stage_names[0] else self._early).append(parameter)
        self._group, self._reduce = group, reduce
        self._timeline, self._is_armed = timeline, False
        self._before_launch: Callable[[], None] | None = None
        self._in_flight: list[tuple[dist.Work, Tensor, list[Tensor]]] = []
        model.on_boundary = self._boundary

    def arm(self, before_launch: Callable[[], None]) -> None:
        """Announce that the next backward is the step's last: its end completes the gradients.

        before_launch: called at the boundary, after the pair's last exchange of the step and before the first sum: the
        point at which to send the next batch over the link.
        """
        self._is_armed, self._before_launch = True, before_launch

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first replica."""
        if self._group is not None:
            with lost_rank_at(AVERAGING):
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), group=self._group, group_src=0)

    def _boundary(self) -> None:
        if self._is_armed:
            assert self._before_launch is not None
            self._is_armed = False
            self._before_launch()
            self._launch(self._early)

    def _launch(self, parameters: Sequence[Parameter]) -> None:
        if self._group is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        small = [gradient for gradient in gradients if gradient.numel() < SMALL]
        with posting(AVERAGING):
            for gradient in gradients:
                if gradient.numel() >= SMALL:
                    self._in_flight.append((self._reduce(gradient, self._group), gradient, []))
            if small:
                flat = torch.cat([gradient.reshape(-1) for gradient in small])
                self._in_flight.append((self._reduce(flat, self._group), flat, small))

    def finish(self) -> None:
        """Launch the remaining sums and wait until every gradient is the sum over all replicas.

        Raises RuntimeError where backward has not reached stage 0, so that its boundary was not seen.
        """
        if self._is_armed:
            raise RuntimeError("stage 0 wants no gradients: the reducer waits for its boundary to sum those above it")
        self._launch(self._late)
        for work, flat, small in self._in_flight:
            with self._timeline.wait(ALLREDUCE_WAIT, AVERAGING), lost_rank_at(AVERAGING):
                work.wait()
            first = 0
            for gradient in small:
                gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
                first += gradient.numel()
        self._in_flight.clear()
