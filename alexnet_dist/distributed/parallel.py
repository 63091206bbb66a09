"""The second wiring: one process a tower; gradients summed over replicas; the word that all ranks share each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from alexnet_dist.distributed.link import PairLink, exchange, gather
from alexnet_dist.monitoring.timeline import ALLREDUCE_WAIT, AVERAGING, CONTROL, Timeline, naming, posting
from alexnet_dist.nn.layers import Address
from alexnet_dist.nn.model import AlexNet, Tower, watch

SMALL = 4096  # elements: gradients below this share one message


class LinkedTower(nn.Module):
    """One tower of a replica, whose other tower is in another process at the far end of the link."""

    def __init__(self, tower: Tower, link: PairLink) -> None:
        """Wire a tower to the link of its pair."""
        super().__init__()
        self.tower, self.link = tower, link
        self.on_boundary: Callable[[Tensor], None] | None = None

    def forward(self, images: Tensor, address: Address | None = None) -> Tensor:
        """Map images (B, 3, 224, 224) to the logits of both towers (B, classes), equal in both processes."""
        maps = self.tower.stage(0, images, None, address)
        if self.on_boundary is not None:
            watch(maps, self.on_boundary)
        for stage in range(1, len(self.tower.stage_names)):
            join = self.tower.stage_names[stage][0]
            maps = self.tower.stage(stage, maps, exchange(maps, self.link, join), address)
        return gather(maps, self.link, self.tower.index, self.tower.net.classes)


class Reducer:
    """Sums gradients over the replicas, tower by tower, in fixed buckets.

    Not DistributedDataParallel: it rebuilds its buckets after the first step, and gloo's sum of three or more ranks
    depends on an element's place in its bucket, so a resumed run would differ from an undisturbed one.

    No sum is in flight beside an exchange of the step: conv3 and all above it are launched when the gradient of stage
    0's output is complete, that is, after the last exchange of backward was waited for; they travel while conv2 and
    conv1 compute. Those two follow after backward. The next batch's pixels, posted just before the first sum, may still
    be on their way: every rank posts in this order, and NCCL keeps to it (process.prepare_cuda).
    """

    def __init__(self, model: AlexNet | LinkedTower, group: dist.ProcessGroup | None, timeline: Timeline) -> None:
        """Watch a model's boundary; without a group (one replica) nothing is ever sent."""
        towers = list(model.towers) if isinstance(model, AlexNet) else [model.tower]
        self._early: list[Parameter] = []
        self._late: list[Parameter] = []
        for tower in towers:
            assert isinstance(tower, Tower)
            for name, parameter in tower.named_parameters():
                (self._late if name.split(".")[0] in tower.stage_names[0] else self._early).append(parameter)
        self._group, self._towers, self._timeline = group, len(towers), timeline
        self._missing = -1  # boundaries still to come; negative: not armed
        self._before_launch: Callable[[], None] | None = None
        self._flights: list[tuple[dist.Work, Tensor, list[Tensor]]] = []
        model.on_boundary = self._boundary

    def arm(self, before_launch: Callable[[], None]) -> None:
        """Announce that the next backward is the step's last: its end completes the gradients.

        before_launch: called at the boundary, when the pair's last exchange of the step is over and no sum has begun:
        the place to send the next batch over the link.
        """
        self._missing = self._towers
        self._before_launch = before_launch

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the first replica's."""
        if self._group is not None:
            with naming(AVERAGING):
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), group=self._group, group_src=0)

    def _boundary(self, _gradient: Tensor) -> None:
        self._missing -= 1
        if self._missing == 0:
            assert self._before_launch is not None
            self._before_launch()
            self._launch(self._early)

    def _launch(self, parameters: Sequence[Parameter]) -> None:
        if self._group is None:
            return
        with posting(AVERAGING):
            self._start([parameter.grad for parameter in parameters if parameter.grad is not None])

    def _start(self, gradients: Sequence[Tensor]) -> None:
        assert self._group is not None
        small = [gradient for gradient in gradients if gradient.numel() < SMALL]
        for gradient in gradients:
            if gradient.numel() >= SMALL:
                self._flights.append((_sum(gradient, self._group), gradient, []))
        if small:
            flat = torch.cat([gradient.reshape(-1) for gradient in small])
            self._flights.append((_sum(flat, self._group), flat, small))

    def finish(self) -> None:
        """Launch the rest and wait until every gradient is the sum over all replicas.

        Raises RuntimeError where backward has not come down to stage 0, so that its boundary was not seen.
        """
        if self._missing > 0:
            raise RuntimeError("stage 0 wants no gradients: the reducer waits for its boundary to sum those above it")
        self._launch(self._late)
        for work, flat, small in self._flights:
            with self._timeline.wait(ALLREDUCE_WAIT, AVERAGING):
                work.wait()
            first = 0
            for gradient in small:
                gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
                first += gradient.numel()
        self._flights.clear()


def _sum(tensor: Tensor, group: dist.ProcessGroup) -> dist.Work:
    return cast("dist.Work", dist.all_reduce(tensor, group=group, async_op=True))


@dataclass(frozen=True)
class Word:
    """A few numbers, summed over all ranks while the next step runs."""

    total: Tensor
    work: dist.Work | None


class Control:
    """The control word: posted when a step has been read, waited for at a fixed place one step later.

    Every rank thus learns of a signal, a loss or a fault at the same step, and acts at the same step. It travels over
    gloo between hosts.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Take the group of all ranks; None: a run of one process."""
        self._group = group

    def post(self, numbers: Sequence[float]) -> Word:
        """Begin to sum this rank's numbers with all others'."""
        total = torch.tensor(numbers, dtype=torch.float64)
        with posting(CONTROL):
            return Word(total, None if self._group is None else _sum(total, self._group))

    def wait(self, word: Word) -> list[float]:
        """Return the sums, the same on every rank."""
        with naming(CONTROL):
            if word.work is not None:
                word.work.wait()
        sums: list[float] = word.total.tolist()
        return sums

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums over all ranks at once."""
        return self.wait(self.post(numbers))

    def gather(self, text: str) -> list[str]:
        """Return every rank's text, by rank."""
        if self._group is None:
            return [text]
        texts: list[str | None] = [None] * dist.get_world_size(self._group)
        with naming(CONTROL):
            dist.all_gather_object(texts, text, group=self._group)
        return [str(one) for one in texts]
