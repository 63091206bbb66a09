"""Between which bounds the time of a step must lie, from what its parts take; pure arithmetic.

    step = compute + link not hidden + max(0, all-reduce - what of backward hides it)
    all-reduce = 2 (R - 1) / R x bytes / bandwidth, a ring of R replicas

Best: the link is hidden whole, and the all-reduce behind all of backward that comes after conv3's boundary, where it
begins (parallel.Reducer). Worst: nothing is hidden. What the formula leaves out (stragglers, loading, contention in a
network, latencies) comes on top of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.nn.geometry import Geometry, multiply_adds, shapes, stages, training_flops


@dataclass(frozen=True)
class Parts:
    """What a step is made of on each rank.

    compute_s: forward, backward and update. link_s: all exchanges of the pair, one after the other. gradient_bytes:
    summed over the replicas, of one tower. bytes_per_s: of the ring, each way and for each rank.
    """

    compute_s: float
    link_s: float
    replicas: int
    gradient_bytes: int
    bytes_per_s: float
    hidden_share: float


@dataclass(frozen=True)
class Bounds:
    """The least and the largest time of a step."""

    best_s: float
    worst_s: float


def ring_s(replicas: int, size_bytes: int, bytes_per_s: float) -> float:
    """Return the seconds of a ring all-reduce; bytes_per_s: each way, for each rank."""
    return 2 * (replicas - 1) / replicas * size_bytes / bytes_per_s


def bounds(parts: Parts) -> Bounds:
    """Return the bounds of a step."""
    allreduce_s = ring_s(parts.replicas, parts.gradient_bytes, parts.bytes_per_s)
    left_s = max(0.0, allreduce_s - parts.hidden_share * parts.compute_s)
    return Bounds(parts.compute_s + left_s, parts.compute_s + parts.link_s + allreduce_s)


def hiding_share_of_backward(net: Geometry) -> float:
    """Return the share of backward's operations that come after the first stage's boundary: 0.41 in the paper's net.

    Backward costs each layer two forwards, but the first layer only one: the image needs no gradient.
    """
    work = {shape.name: shape.multiply_adds for shape in shapes(net)}
    first_stage = stages(net)[0]
    first = work[first_stage[0]]
    return (2 * sum(work[name] for name in first_stage) - first) / (2 * sum(work.values()) - first)


def hiding_share_of_step(net: Geometry) -> float:
    """Return the share of a whole step's operations that an all-reduce can hide behind: 0.27 in the paper's net."""
    backward = 1 - 2 * multiply_adds(net) / training_flops(net)
    return hiding_share_of_backward(net) * backward


@dataclass(frozen=True)
class Cluster:
    """What is assumed of nodes that nobody has measured.

    step_s: computing one step of a pair. pair_batch: its images. network_gigabits: a second, of a node, each way.
    link_gigabytes: a second, between two devices of a node, each way. pairs_per_node: half of a node's devices.
    link_bytes: each way in a step.
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
        """Return a step's parts on so many nodes.

        The towers' two rings run at once. Within one node each has the link between devices; from two nodes on both
        cross each node's network, and each has half of it.
        """
        bytes_per_s = self.link_gigabytes * 1e9 if nodes == 1 else self.network_gigabits * 1e9 / 8 / 2
        link_s = self.link_bytes / (self.link_gigabytes * 1e9)
        replicas = nodes * self.pairs_per_node
        return Parts(self.step_s, link_s, replicas, self.gradient_bytes, bytes_per_s, self.hidden_share)

    def images_per_second(self, nodes: int) -> tuple[float, float]:
        """Return the bounds of images a second of all nodes, the lower first."""
        found, images = bounds(self.parts(nodes)), nodes * self.pairs_per_node * self.pair_batch
        return images / found.worst_s, images / found.best_s
