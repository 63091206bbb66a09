"""The benchmark ``link``: each join of the net through our PairLink, beside the same bytes by torch's calls alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import torch

from alexnet_dist.benchmark import devices
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders.link_joins import LATENCY, joins
from alexnet_dist.benchmark.rounds import OTHERS, Entry, Figures, Row

LINK, WIRE = "PairLink", "batch_isend_irecv"
COLUMNS = {
    "link_us": "PairLink us",
    "wire_us": "torch us",
    "link_gigabytes_per_second": "PairLink GB/s",
    "wire_gigabytes_per_second": "torch GB/s",
    "size_kilobytes": "KB a direction",
}


def entries(batch: int, repeats: int, threads: int, device: str, narrower: int = 1) -> list[Entry]:
    """Return the two contenders, each of them two ranks; UserError where these have no CUDA device each."""
    devices.check_devices(device, 2)
    settings: Mapping[str, object] = {
        "batch": batch, "repeats": repeats, "threads": threads, "device": device, "narrower": narrower,
    }  # fmt: skip
    return [
        Entry(LINK, "ranks", {"task": "rank_link", "ranks": 2, "settings": settings}),
        Entry(WIRE, "ranks", {"task": "rank_wire", "ranks": 2, "settings": settings}),
    ]


def by_join(rows: Sequence[Row], batch: int, narrower: int = 1) -> list[Row]:
    """Return a row a join, with both contenders' figures, from the two contenders' rows."""
    link, wire = rows
    return [
        Row(
            Entry(join.name, "", {}),
            tuple(
                _figures(join.name, join.size_bytes, ours, theirs)
                for ours, theirs in zip(link.rounds, wire.rounds, strict=True)
            ),
        )
        for join in joins(nets.geometry(narrower), batch, 0, torch.float32)
    ]


def _figures(name: str, size_bytes: int, ours: Figures, theirs: Figures) -> Figures:
    return {
        "link_us": ours[name],
        "wire_us": theirs[name],
        "link_gigabytes_per_second": size_bytes / ours[name] / 1e3,
        "wire_gigabytes_per_second": size_bytes / theirs[name] / 1e3,
        "size_kilobytes": size_bytes / 1e3,
        OTHERS: max(ours[OTHERS], theirs[OTHERS]),
    }


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return torch's time over ours, for all joins of a step together and for the least exchange; of the contenders."""
    link, wire = rows
    pairs = list(zip(link.rounds, wire.rounds, strict=True))
    return {
        "link_vs_torch": median(_joins_us(theirs) / _joins_us(ours) for ours, theirs in pairs),
        "link_vs_torch_4_bytes": median(theirs[LATENCY] / ours[LATENCY] for ours, theirs in pairs),
    }


def _joins_us(figures: Figures) -> float:
    return sum(value for name, value in figures.items() if name not in (LATENCY, OTHERS))
