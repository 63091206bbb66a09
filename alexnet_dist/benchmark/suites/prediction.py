"""The prediction model of ``scaling``: bounds on the time of a step, computed from the times of its parts.

    step = compute + link not hidden + max(0, all-reduce - part hidden behind backward)
    all-reduce = 2 (R - 1) / R x bytes / bandwidth, a ring of R replicas

Best: the link is hidden completely, and the all-reduce behind the whole backward pass after conv3's boundary, where it
starts (data_parallel.Reducer). Worst: nothing is hidden. Stragglers, loading, network contention and latencies are not
in the formula and come on top of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.distributed.status_sum import most_hops
from alexnet_dist.nn.geometry import Geometry, multiply_adds, shapes, stages, training_flops


@dataclass(frozen=True)
class Parts:
    """The parts of a step on each rank.

    compute_s: forward, backward and update. link_s: all exchanges of the pair, one after the other. gradient_bytes:
    summed over the replicas, of one tower. bytes_per_s: of the ring, in each direction and for each rank. hidden_share:
    the part of compute_s that can hide the all-reduce.
    """

    compute_s: float
    link_s: float
    replicas: int
    gradient_bytes: int
    bytes_per_s: float
    hidden_share: float


@dataclass(frozen=True)
class Bounds:
    """The shortest and the longest time of a step."""

    best_s: float
    worst_s: float


def ring_s(replicas: int, size_bytes: int, bytes_per_s: float) -> float:
    """Return the seconds of a ring all-reduce; bytes_per_s: in each direction, for each rank."""
    return 2 * (replicas - 1) / replicas * size_bytes / bytes_per_s


def tree_s(ranks: int, hop_s: float) -> float:
    """Return the seconds of a status sum along the tree; hop_s: of one message between two ranks."""
    return most_hops(ranks) * hop_s


def small_ring_s(ranks: int, hop_s: float) -> float:
    """Return the seconds of an all-reduce of a few numbers in a ring, whose messages follow one another."""
    return 2 * (ranks - 1) * hop_s


def bounds(parts: Parts) -> Bounds:
    """Return the bounds of a step."""
    allreduce_s = ring_s(parts.replicas, parts.gradient_bytes, parts.bytes_per_s)
    exposed_s = max(0.0, allreduce_s - parts.hidden_share * parts.compute_s)
    return Bounds(parts.compute_s + exposed_s, parts.compute_s + parts.link_s + allreduce_s)


def hiding_share_of_backward(net: Geometry) -> float:
    """Return the share of backward's operations after the first stage's boundary: 0.41 in the paper's net.

    Backward costs as much as two forward passes in each layer, and one in the first, whose input needs no gradient.
    """
    work = {shape.name: shape.multiply_adds for shape in shapes(net)}
    first_stage = stages(net)[0]
    first_layer = work[first_stage[0]]
    return (2 * sum(work[name] for name in first_stage) - first_layer) / (2 * sum(work.values()) - first_layer)


def hiding_share_of_step(net: Geometry) -> float:
    """Return the share of a whole step's operations that can hide an all-reduce: 0.27 in the paper's net."""
    backward = 1 - 2 * multiply_adds(net) / training_flops(net)
    return hiding_share_of_backward(net) * backward


@dataclass(frozen=True)
class Cluster:
    """The assumed properties of nodes that have not been measured.

    step_s: compute time of a pair's step. pair_batch: its images. network_gigabits: a second, of a node, in each
    direction. link_gigabytes: a second, between two devices of a node, in each direction. link_bytes: of a step, in
    each direction. pairs_per_node: half the number of devices.
    """

    step_s: float
    pair_batch: int
    network_gigabits: float
    link_gigabytes: float
    link_bytes: int
    gradient_bytes: int
    hidden_share: float
    pairs_per_node: int = 4

    def parts(self, nodes: int) -> Parts:
        """Return the parts of a step on `nodes` nodes.

        The rings of the two towers run at the same time. Within one node each has the link between devices; with two or
        more nodes both cross every node's network, and each has half of its bandwidth.
        """
        bytes_per_s = self.link_gigabytes * 1e9 if nodes == 1 else self.network_gigabits * 1e9 / 8 / 2
        link_s = self.link_bytes / (self.link_gigabytes * 1e9)
        replicas = nodes * self.pairs_per_node
        return Parts(self.step_s, link_s, replicas, self.gradient_bytes, bytes_per_s, self.hidden_share)

    def images_per_second(self, nodes: int) -> tuple[float, float]:
        """Return the lower and the upper bound of the images a second of all nodes."""
        step, images = bounds(self.parts(nodes)), nodes * self.pairs_per_node * self.pair_batch
        return images / step.worst_s, images / step.best_s
