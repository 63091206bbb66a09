"""The benchmark ``scaling``: 1, 2 and 4 ranks on this machine, and between which bounds any number of nodes must lie.

What is measured here and what is only reckoned are never in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders.link_joins import NO_ACTIVATIONS, joins
from alexnet_dist.benchmark.contenders.training_steps import Job
from alexnet_dist.benchmark.rounds import OTHERS, Entry, Row, ratio
from alexnet_dist.benchmark.suites.prediction import Cluster, Parts, bounds, hiding_share_of_step
from alexnet_dist.benchmark.suites.step import pairs
from alexnet_dist.nn.geometry import parameter_count

ONE, TWO, FOUR = "1 rank, fused", "2 ranks, 1 pair", "4 ranks, 2 pairs"
LINK, ALLREDUCE = "2 ranks, the joins alone", "4 ranks, all-reduce alone"
REPEATS = 5
NODES = (1, 2, 4, 8, 16, 32, 64)
COLUMNS = {
    "images_per_second": "images/s",
    "step_ms": "step ms",
    "link_wait_ms": "link wait ms",
    "allreduce_ms": "all-reduce ms",
}
Bound = dict[str, str | float]


def entries(job: Job) -> list[Entry]:
    """Return 1, 2 and 4 ranks, and the link and the all-reduce by themselves; the ranks share the job's threads."""

    def threads(ranks: int) -> int:
        return max(1, job.threads // ranks)

    link = {"batch": job.batch, "repeats": REPEATS, "threads": threads(2), "narrower": job.narrower}
    reduced = {"size_bytes": gradient_bytes(job), "repeats": REPEATS, "threads": threads(4)}
    return [
        Entry(ONE, "fused_step", asdict(job)),
        Entry(TWO, "ranks", pairs(replace(job, threads=threads(2)))),
        Entry(FOUR, "ranks", pairs(replace(job, threads=threads(4)), replicas=2)),
        Entry(LINK, "ranks", {"task": "rank_link", "ranks": 2, "settings": link}),
        Entry(ALLREDUCE, "ranks", {"task": "rank_allreduce", "ranks": 4, "settings": reduced}),
    ]


def gradient_bytes(job: Job) -> int:
    """Return the bytes of one tower's gradients."""
    return 4 * parameter_count(nets.geometry(job.narrower)) // 2


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return the images a second of more ranks over one's: on the same cores 1 would be to lose nothing."""
    found = {"ranks_2_vs_1": ratio(rows, TWO, ONE), "ranks_4_vs_1": ratio(rows, FOUR, ONE)}
    return {name: value for name, value in found.items() if value is not None}


def here(rows: Sequence[Row], job: Job) -> list[Bound]:
    """Return what was measured of 2 and 4 ranks beside the bounds that follow from the other rows' medians.

    The ranks share this machine's cores and its memory as a link: a second pair doubles the time of computing and of
    the exchanges.
    """
    one, two, four, link, allreduce = rows
    names = [name for name in link.rounds[0] if name not in (*NO_ACTIVATIONS, OTHERS)]
    link_s = sum(_median(link, name) for name in names) / 1e6
    compute_s, share = _median(one, "step_ms") / 1000, hiding_share_of_step(nets.geometry(job.narrower))
    bytes_per_s = 1e9 * _median(allreduce, "gigabytes_per_second")
    found: list[Bound] = []
    for replicas, row in ((1, two), (2, four)):
        parts = Parts(compute_s * replicas, link_s * replicas, replicas, gradient_bytes(job), bytes_per_s, share)
        times = bounds(parts)
        found.append(
            {
                "ranks": row.entry.name,
                "best_ms": 1000 * times.best_s,
                "worst_ms": 1000 * times.worst_s,
                "measured_ms": _median(row, "step_ms"),
            }
        )
    return found


def _median(row: Row, figure: str) -> float:
    value = row.median(figure)
    assert value is not None, f"{row.entry.name} has no {figure}"
    return value


def cluster(step_ms: float, pair_batch: int, network_gigabits: float, link_gigabytes: float) -> Cluster:
    """Return what is assumed of nodes of 8 devices that train the paper's net in float32."""
    net = nets.geometry()
    link_bytes = sum(
        join.size_bytes for join in joins(net, pair_batch, 0, torch.float32) if join.name not in NO_ACTIVATIONS
    )
    share = hiding_share_of_step(net)
    gradients = 4 * parameter_count(net) // 2
    return Cluster(step_ms / 1000, pair_batch, network_gigabits, link_gigabytes, link_bytes, gradients, share)


def nodes(assumed: Cluster) -> list[Bound]:
    """Return the bounds of images a second on 1 to 64 nodes, and of the share of perfect scaling that they are."""
    one_device_pair = assumed.pair_batch / assumed.step_s
    found: list[Bound] = []
    for count in NODES:
        lower, upper = assumed.images_per_second(count)
        perfect = one_device_pair * count * assumed.pairs_per_node
        found.append(
            {
                "nodes": count,
                "images_per_second_worst": lower,
                "images_per_second_best": upper,
                "efficiency_worst": lower / perfect,
                "efficiency_best": upper / perfect,
            }
        )
    return found


def said(measured: Sequence[Bound], assumed: Cluster) -> str:
    """Return both kinds of bounds as text, with what they rest on."""
    lines = ["bounds from the rows above, beside what was measured (ms a step):"]
    lines += [
        f"  {one['ranks']}: {one['best_ms']:.0f} to {one['worst_ms']:.0f}; measured {one['measured_ms']:.0f}"
        for one in measured
    ]
    lines += [
        "",
        "NOT MEASURED: bounds for nodes of 8 devices, by arithmetic from assumptions:",
        f"  a step of a pair computes for {1000 * assumed.step_s:g} ms on {assumed.pair_batch} images (--step-ms,"
        " --pair-batch),",
        f"  a node's network carries {assumed.network_gigabits:g} Gbit/s each way (--network-gbit), two devices of a"
        f" node exchange {assumed.link_gigabytes:g} GB/s each way (--link-gbytes);",
        f"  in a step {assumed.link_bytes / 1e6:.1f} MB cross a link each way, {assumed.gradient_bytes / 1e6:.0f} MB of"
        " gradients are summed for each tower;",
        "  step = compute + link not hidden + max(0, all-reduce - hidden), all-reduce = 2 (R - 1) / R x bytes /"
        " bandwidth;",
        f"  best: the link hidden, and {assumed.hidden_share:.0%} of computing hides the all-reduce; worst: nothing is",
        "  hidden. The global batch grows with the nodes.",
    ]
    for one in nodes(assumed):
        worst, best = one["efficiency_worst"], one["efficiency_best"]
        lines.append(
            f"  {one['nodes']:>3} nodes: {one['images_per_second_worst']:>12,.0f} to"
            f" {one['images_per_second_best']:>12,.0f} images/s, {worst:.0%} to {best:.0%} of perfect"
        )
    return "\n".join(lines)
