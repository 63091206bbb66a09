"""All that crosses the link in a step, join by join, timed through our PairLink and through torch's calls alone."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from alexnet_dist import process
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders import torch_wire as wire
from alexnet_dist.benchmark.contenders.training_steps import GROUPS_TIMEOUT_S
from alexnet_dist.data.loader import row_bytes
from alexnet_dist.data.plan import tower_half
from alexnet_dist.distributed import topology
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.link import PIXELS, P2PLink, PairLink
from alexnet_dist.distributed.tower_parallel import LOGITS
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.geometry import Geometry, channel_span, shapes, stages

WARM_UP = 3  # repetitions
LATENCY = "4 bytes"  # no join, but what any exchange costs
NO_ACTIVATIONS = (LATENCY, PIXELS)  # what a step on a batch in memory does not exchange


@dataclass(frozen=True)
class Join:
    """One exchange: what tower sends and what it receives."""

    name: str
    sent: tuple[int, ...]
    received: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes of the larger direction: odd halves differ by one."""
        return max(math.prod(self.sent), math.prod(self.received)) * self.dtype.itemsize


def joins(net: Geometry, batch: int, tower: int, dtype: torch.dtype) -> list[Join]:
    """Return the exchanges of a step of one tower, in no order of time; batch: images of the replica."""
    found = [Join(LATENCY, (4,), (4,), torch.uint8)]
    before = dict(zip([shape.name for shape in shapes(net)][1:], shapes(net), strict=False))
    for name, *_ in stages(net)[1:]:
        maps = before[name]
        halves = (batch, maps.channels // 2) + ((maps.side, maps.side) if maps.name.startswith("conv") else ())
        found += [Join(f"{name} {way}", halves, halves, dtype) for way in ("forward", "backward")]
    spans = [channel_span(net.classes, one) for one in (tower, 1 - tower)]
    own, other = ((batch, end - first) for first, end in spans)
    found.append(Join(LOGITS, own, other, dtype))
    spans = [tower_half(one, 0, batch) for one in (tower, 1 - tower)]
    own, other = ((end - first, row_bytes(net.side)) for first, end in spans)
    return [*found, Join(PIXELS, own, other, torch.uint8)]


def measure_link(**settings: object) -> dict[str, float]:
    """Return the microseconds of each join through PairLink, by its name: start, and wait."""
    return _measure(_through_link, **settings)  # type: ignore[arg-type]


def measure_wire(**settings: object) -> dict[str, float]:
    """Return the same by torch's calls alone, into a buffer that is there."""
    return _measure(_through_wire, **settings)  # type: ignore[arg-type]


Exchanges = Callable[[topology.Topology, topology.Groups, Join], Callable[[], object]]


def _through_link(place: topology.Topology, groups: topology.Groups, join: Join) -> Callable[[], object]:
    assert groups.pair is not None
    link: PairLink = P2PLink(groups.pair, place.rank ^ 1, Timeline(place.device))
    sent = torch.zeros(join.sent, dtype=join.dtype, device=place.device)
    return lambda: link.wait(link.start(sent, join.received, join.name))


def _through_wire(place: topology.Topology, groups: topology.Groups, join: Join) -> Callable[[], object]:
    assert groups.pair is not None
    sent, received = (torch.zeros(shape, dtype=join.dtype, device=place.device) for shape in (join.sent, join.received))
    return partial(wire.exchange, sent, received, groups.pair, place.rank ^ 1)


def _measure(
    exchanges: Exchanges, batch: int, repeats: int, threads: int, device: str = "cpu", narrower: int = 1
) -> dict[str, float]:
    """Return the microseconds of each join: of its repetitions the median, of the ranks the slowest."""
    process.keep_freed_memory()
    process.prepare_cuda()
    torch.set_num_threads(threads)
    place = topology.place("paired", device, process.launch_info())
    groups = topology.open_groups(place, GROUPS_TIMEOUT_S)
    try:
        listed = joins(nets.geometry(narrower), batch, place.towers[0], torch.float32)
        own = [_usual_s(exchanges(place, groups, join), repeats, place.device) for join in listed]
        told: Sequence[list[float]] = [json.loads(one) for one in Control(groups.world).gather(json.dumps(own))]
    finally:
        topology.close_groups()
    return {join.name: 1e6 * max(times) for join, times in zip(listed, zip(*told, strict=True), strict=True)}


def _usual_s(exchange: Callable[[], object], repeats: int, device: torch.device) -> float:
    found_s = []
    for _ in range(WARM_UP + repeats):
        began_s = time.perf_counter()
        exchange()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found_s.append(time.perf_counter() - began_s)
    return median(found_s[WARM_UP:])
