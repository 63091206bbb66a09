"""All exchanges of a step over the link, join by join, timed through our PairLink and through torch's calls alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from alexnet_dist.benchmark.contenders import plain_nets, torch_wire
from alexnet_dist.benchmark.contenders.rank_groups import gather, paired_ranks
from alexnet_dist.data.loader import row_bytes
from alexnet_dist.data.plan import tower_half
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.link import P2PLink, PairLink
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.distributed.tower_parallel import LOGITS, PIXELS
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.geometry import Geometry, channel_span, shapes, stages
from alexnet_dist.system import environment, resources

WARM_UP = 3  # repetitions
LATENCY = "4 bytes"  # not a join: the fixed cost of an exchange
NOT_IN_MEMORY_STEP = (LATENCY, PIXELS)  # the exchanges that a step on a batch in memory does not make


@dataclass(frozen=True)
class Join:
    """One exchange: the shapes that a tower sends and receives."""

    name: str
    sent: tuple[int, ...]
    received: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes of the larger direction: the halves of an odd number differ by one."""
        return max(math.prod(self.sent), math.prod(self.received)) * self.dtype.itemsize


def joins(net: Geometry, batch: int, tower: int, dtype: torch.dtype) -> list[Join]:
    """Return the exchanges that one tower makes in a step, not in order of time; batch: images of the replica."""
    exchanges = [Join(LATENCY, (4,), (4,), torch.uint8)]
    layer_shapes = shapes(net)
    inputs = dict(zip([shape.name for shape in layer_shapes][1:], layer_shapes, strict=False))
    for name, *_ in stages(net)[1:]:
        maps = inputs[name]
        half = (batch, maps.channels // 2) + ((maps.side, maps.side) if maps.name.startswith("conv") else ())
        exchanges += [Join(f"{name} {direction}", half, half, dtype) for direction in ("forward", "backward")]
    spans = [channel_span(net.classes, index) for index in (tower, 1 - tower)]
    own, other = ((batch, end - first) for first, end in spans)
    exchanges.append(Join(LOGITS, own, other, dtype))
    spans = [tower_half(index, 0, batch) for index in (tower, 1 - tower)]
    own, other = ((end - first, row_bytes(net.side)) for first, end in spans)
    return [*exchanges, Join(PIXELS, own, other, torch.uint8)]


def measure_link(**settings: object) -> dict[str, float]:
    """Return the microseconds of each join through PairLink (start and wait), by its name."""
    return _measure(_through_link, **settings)  # type: ignore[arg-type]


def measure_wire(**settings: object) -> dict[str, float]:
    """Return the same for torch's calls alone, into a buffer that is allocated once."""
    return _measure(_through_torch, **settings)  # type: ignore[arg-type]


PrepareExchange = Callable[[Topology, Groups, Join], Callable[[], object]]


def _through_link(topology: Topology, groups: Groups, join: Join) -> Callable[[], object]:
    assert groups.pair is not None
    link: PairLink = P2PLink(groups.pair, topology.rank ^ 1, Timeline(topology.device))
    sent = torch.zeros(join.sent, dtype=join.dtype, device=topology.device)
    return lambda: link.wait(link.start(sent, join.received, join.name))


def _through_torch(topology: Topology, groups: Groups, join: Join) -> Callable[[], object]:
    assert groups.pair is not None
    sent, received = (
        torch.zeros(shape, dtype=join.dtype, device=topology.device) for shape in (join.sent, join.received)
    )
    return partial(torch_wire.exchange, sent, received, groups.pair, topology.rank ^ 1)


def _measure(
    prepare: PrepareExchange, batch: int, repeats: int, threads: int, device: str = "cpu", width_divisor: int = 1
) -> dict[str, float]:
    """Return the microseconds of each join: the median of its repetitions, on the slower rank."""
    resources.keep_freed_memory()
    environment.prepare_cuda()
    torch.set_num_threads(threads)
    with paired_ranks(device) as (topology, groups):
        exchanges = joins(plain_nets.geometry(width_divisor), batch, topology.towers[0], torch.float32)
        times_s = [_median_s(prepare(topology, groups, join), repeats, topology.device) for join in exchanges]
        times_s_of_ranks: list[list[float]] = gather(groups, times_s)
    return {
        join.name: 1e6 * max(join_times_s)
        for join, join_times_s in zip(exchanges, zip(*times_s_of_ranks, strict=True), strict=True)
    }


def _median_s(exchange: Callable[[], object], repeats: int, device: torch.device) -> float:
    times_s = []
    for _ in range(WARM_UP + repeats):
        began_s = time.perf_counter()
        exchange()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - began_s)
    return median(times_s[WARM_UP:])
