"""The benchmark ``link``: each join of the net through our PairLink, beside torch's calls alone on the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import torch

from alexnet_dist.benchmark import devices
from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.benchmark.contenders.link_joins import LATENCY, joins
from alexnet_dist.benchmark.rounds import OTHERS, Contender, Figures, Result

LINK, TORCH = "PairLink", "batch_isend_irecv"
COLUMNS = {
    "link_us": "PairLink us",
    "wire_us": "torch us",
    "link_gigabytes_per_second": "PairLink GB/s",
    "wire_gigabytes_per_second": "torch GB/s",
    "size_kilobytes": "KB a direction",
}


def contenders(batch: int, repeats: int, threads: int, device: str, width_divisor: int = 1) -> list[Contender]:
    """Return the two contenders, of two ranks each; raises UserError if there are fewer CUDA devices than ranks."""
    devices.check_devices(device, 2)
    settings: Mapping[str, object] = {
        "batch": batch, "repeats": repeats, "threads": threads, "device": device, "width_divisor": width_divisor,
    }  # fmt: skip
    return [
        Contender(LINK, "ranks", {"task": "rank_link", "ranks": 2, "settings": settings}),
        Contender(TORCH, "ranks", {"task": "rank_wire", "ranks": 2, "settings": settings}, is_peer=True),
    ]


def by_join(results: Sequence[Result], batch: int, width_divisor: int = 1) -> list[Result]:
    """Return one result a join, with the figures of both contenders, from the results of the two contenders.

    If torch's contender is missing, its own result follows, with the reason.
    """
    ours, theirs = results
    wires: Sequence[Figures] = theirs.rounds or [{}] * len(ours.rounds)
    rows = [
        Result(
            join.name,
            tuple(
                _figures(join.name, join.size_bytes, link, wire) for link, wire in zip(ours.rounds, wires, strict=True)
            ),
        )
        for join in joins(plain_nets.geometry(width_divisor), batch, 0, torch.float32)
    ]
    return [*rows, theirs] if theirs.missing else rows


def _figures(name: str, size_bytes: int, link: Figures, wire: Figures) -> Figures:
    figures = {"link_us": link[name], "link_gigabytes_per_second": size_bytes / link[name] / 1e3}
    if wire:
        figures |= {"wire_us": wire[name], "wire_gigabytes_per_second": size_bytes / wire[name] / 1e3}
    return {**figures, "size_kilobytes": size_bytes / 1e3, OTHERS: max(link[OTHERS], wire.get(OTHERS, 0.0))}


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return torch's time over ours, for all joins of a step together and for 4 bytes; results: of the contenders."""
    ours, theirs = results
    if theirs.missing:
        return {}
    rounds = list(zip(ours.rounds, theirs.rounds, strict=True))
    return {
        "link_vs_torch": median(_joins_us(wire) / _joins_us(link) for link, wire in rounds),
        "link_vs_torch_4_bytes": median(wire[LATENCY] / link[LATENCY] for link, wire in rounds),
    }


def _joins_us(figures: Figures) -> float:
    return sum(value for name, value in figures.items() if name not in (LATENCY, OTHERS))
