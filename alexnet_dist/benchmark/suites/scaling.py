"""The benchmark ``scaling``: 1, 2 and 4 ranks on this machine, and bounds for any number of nodes.

Measured and computed figures are never in the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.benchmark.contenders.link_joins import NOT_IN_MEMORY_STEP, joins
from alexnet_dist.benchmark.contenders.training_steps import StepSettings
from alexnet_dist.benchmark.rounds import OTHERS, Contender, Result, ratio
from alexnet_dist.benchmark.suites.prediction import (
    Cluster,
    Parts,
    bounds,
    hiding_share_of_step,
    small_ring_s,
    tree_s,
)
from alexnet_dist.benchmark.suites.step import pair_settings
from alexnet_dist.nn.geometry import parameter_count

ONE, TWO, FOUR = "1 rank, fused", "2 ranks, 1 pair", "4 ranks, 2 pairs"
LINK, ALLREDUCE = "2 ranks, the joins alone", "4 ranks, all-reduce alone"
STATUS, STATUS_FOUR = "2 ranks, the status sum alone", "4 ranks, the status sum alone"
REPEATS, STATUS_REPEATS = 5, 500
NODES = (1, 2, 4, 8, 16, 32, 64)
STATUS_RANKS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
COLUMNS = {
    "images_per_second": "images/s",
    "step_ms": "step ms",
    "link_wait_ms": "link wait ms",
    "allreduce_ms": "all-reduce ms",
    "status_us": "status sum us",
    "status_ring_us": "gloo's ring us",
}
Fields = dict[str, str | float]  # a JSON object


def contenders(settings: StepSettings) -> list[Contender]:
    """Return 1, 2 and 4 ranks, then the link, the all-reduce and the status sum alone.

    The ranks share the threads of `settings`.
    """

    def threads(ranks: int) -> int:
        return max(1, settings.threads // ranks)

    def status(ranks: int) -> dict[str, object]:
        return {"repeats": STATUS_REPEATS, "threads": threads(ranks)}

    link = {
        "batch": settings.batch, "repeats": REPEATS, "threads": threads(2), "width_divisor": settings.width_divisor,
    }  # fmt: skip
    allreduce = {"size_bytes": gradient_bytes(settings), "repeats": REPEATS, "threads": threads(4)}
    return [
        Contender(ONE, "fused_step", asdict(settings)),
        Contender(TWO, "ranks", pair_settings(replace(settings, threads=threads(2)))),
        Contender(FOUR, "ranks", pair_settings(replace(settings, threads=threads(4)), replicas=2)),
        Contender(LINK, "ranks", {"task": "rank_link", "ranks": 2, "settings": link}),
        Contender(ALLREDUCE, "ranks", {"task": "rank_allreduce", "ranks": 4, "settings": allreduce}),
        *(
            Contender(name, "ranks", {"task": "rank_status", "ranks": ranks, "settings": status(ranks)})
            for name, ranks in ((STATUS, 2), (STATUS_FOUR, 4))
        ),
    ]


def gradient_bytes(settings: StepSettings) -> int:
    """Return the bytes of one tower's gradients."""
    return 4 * parameter_count(plain_nets.geometry(settings.width_divisor)) // 2


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return the images a second of 2 and 4 ranks over those of one: on the same cores, 1 means no loss."""
    values = {"ranks_2_vs_1": ratio(results, TWO, ONE), "ranks_4_vs_1": ratio(results, FOUR, ONE)}
    return {name: value for name, value in values.items() if value is not None}


def measured_bounds(results: Sequence[Result], settings: StepSettings) -> list[Fields]:
    """Return the measured step of 2 and 4 ranks beside the bounds that follow from the medians of the other results.

    The ranks share this machine's cores, and its memory as a link: a second pair doubles the time of computing and of
    the exchanges.
    """
    fused, pair, pairs, link, allreduce, *_ = results
    names = [name for name in link.rounds[0] if name not in (*NOT_IN_MEMORY_STEP, OTHERS)]
    link_s = sum(_median(link, name) for name in names) / 1e6
    compute_s = _median(fused, "step_ms") / 1000
    hidden_share = hiding_share_of_step(plain_nets.geometry(settings.width_divisor))
    bytes_per_s = 1e9 * _median(allreduce, "gigabytes_per_second")
    lines: list[Fields] = []
    for replicas, result in ((1, pair), (2, pairs)):
        parts = Parts(
            compute_s * replicas, link_s * replicas, replicas, gradient_bytes(settings), bytes_per_s, hidden_share
        )
        times = bounds(parts)
        lines.append(
            {
                "ranks": result.name,
                "best_ms": 1000 * times.best_s,
                "worst_ms": 1000 * times.worst_s,
                "measured_ms": _median(result, "step_ms"),
            }
        )
    return lines


def status_sums(results: Sequence[Result]) -> list[Fields]:
    """Return the computed microseconds of a status sum of 2 to 1,024 ranks, from those measured with 2.

    With 2 ranks the tree and gloo's ring both take two messages in sequence.
    """
    (measured,) = (result for result in results if result.name == STATUS)
    hop_us, ring_hop_us = _median(measured, "status_us") / 2, _median(measured, "status_ring_us") / 2
    return [
        {"ranks": ranks, "status_us": tree_s(ranks, hop_us), "ring_us": small_ring_s(ranks, ring_hop_us)}
        for ranks in STATUS_RANKS
    ]


def _median(result: Result, figure: str) -> float:
    value = result.median(figure)
    assert value is not None, f"{result.name} has no {figure}"
    return value


def assumed_cluster(step_ms: float, pair_batch: int, network_gigabits: float, link_gigabytes: float) -> Cluster:
    """Return the assumptions on nodes of 8 devices that train the paper's net in float32."""
    net = plain_nets.geometry()
    exchanges = joins(net, pair_batch, 0, torch.float32)
    link_bytes = sum(join.size_bytes for join in exchanges if join.name not in NOT_IN_MEMORY_STEP)
    hidden_share = hiding_share_of_step(net)
    gradients = 4 * parameter_count(net) // 2
    return Cluster(step_ms / 1000, pair_batch, network_gigabits, link_gigabytes, link_bytes, gradients, hidden_share)


def node_bounds(cluster: Cluster) -> list[Fields]:
    """Return the bounds of images a second on 1 to 64 nodes, and of the efficiency: their share of perfect scaling."""
    pair_images_per_s = cluster.pair_batch / cluster.step_s
    lines: list[Fields] = []
    for nodes in NODES:
        lower, upper = cluster.images_per_second(nodes)
        perfect = pair_images_per_s * nodes * cluster.pairs_per_node
        lines.append(
            {
                "nodes": nodes,
                "images_per_second_worst": lower,
                "images_per_second_best": upper,
                "efficiency_worst": lower / perfect,
                "efficiency_best": upper / perfect,
            }
        )
    return lines


def describe(measured: Sequence[Fields], sums: Sequence[Fields], cluster: Cluster) -> str:
    """Return both kinds of bounds and the status sums as text, with their assumptions."""
    lines = ["bounds from the results above, beside the measured time (ms a step):"]
    lines += [
        f"  {line['ranks']}: {line['best_ms']:.0f} to {line['worst_ms']:.0f}; measured {line['measured_ms']:.0f}"
        for line in measured
    ]
    lines += [
        "",
        "NOT MEASURED: the status sum of each step, computed from its time with 2 ranks (us); it travels while a step",
        f"  of {1000 * cluster.step_s:g} ms (--step-ms) runs; this machine's processes stand in for nodes:",
        *(
            f"  {line['ranks']:>5,} ranks: {line['status_us']:>9,.0f} along the tree,"
            f" {line['ring_us']:>9,.0f} in gloo's ring"
            for line in sums
        ),
        "",
        "NOT MEASURED: bounds for nodes of 8 devices, computed from assumptions:",
        f"  a pair's step computes for {1000 * cluster.step_s:g} ms on {cluster.pair_batch} images (--step-ms,"
        " --pair-batch);",
        f"  a node's network carries {cluster.network_gigabits:g} Gbit/s each way (--network-gbit), the link between"
        f" two devices of a node {cluster.link_gigabytes:g} GB/s each way (--link-gbytes);",
        f"  in a step {cluster.link_bytes / 1e6:.1f} MB cross a link each way, and {cluster.gradient_bytes / 1e6:.0f}"
        " MB of gradients are summed for each tower;",
        "  step = compute + link not hidden + max(0, all-reduce - hidden), all-reduce = 2 (R - 1) / R x bytes /"
        " bandwidth;",
        f"  best: the link is hidden, and so is the all-reduce, behind {cluster.hidden_share:.0%} of the computing;",
        "  worst: nothing is hidden. The global batch grows with the number of nodes.",
    ]
    for line in node_bounds(cluster):
        worst, best = line["efficiency_worst"], line["efficiency_best"]
        lines.append(
            f"  {line['nodes']:>3} nodes: {line['images_per_second_worst']:>12,.0f} to"
            f" {line['images_per_second_best']:>12,.0f} images/s, {worst:.0%} to {best:.0%} of perfect"
        )
    return "\n".join(lines)
