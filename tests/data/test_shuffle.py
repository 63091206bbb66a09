"""How well the plan shuffles, compared with a uniform order of the same samples; docs/design/data.md has the table.

Run as a script, it prints that table for a set of ImageNet's size: ``python tests/data/test_shuffle.py``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from alexnet_dist.data.plan import EpochPlan, Ids
from alexnet_dist.system import rng


@dataclass(frozen=True)
class Quality:
    """Means over batches.

    neighbours: pairs of samples that are adjacent in the set. packed_classes, sorted_classes: different classes, of a
    set packed in a seeded order (as pack does) and of one whose shards are sorted by class. repeated_pairs: pairs that
    share a batch in the next epoch too. correlation: of the batch a sample is in, in this epoch and in the next.
    """

    neighbours: float
    packed_classes: float
    sorted_classes: float
    repeated_pairs: float
    correlation: float


def epoch_ids(plan: EpochPlan) -> Ids:
    """Return an epoch's ids, (batches, global batch)."""
    return np.stack([plan.sample_ids(batch, 0, plan.global_batch) for batch in range(plan.batches)])


def uniform(plan: EpochPlan) -> Ids:
    """Return as many batches of a uniform order, which differs between epochs."""
    ids = rng.permutation(plan.samples, plan.seed, plan.epoch, "uniform")
    return ids[: plan.batches * plan.global_batch].reshape(plan.batches, plan.global_batch)


def quality(batches: Ids, following: Ids, samples: int, classes: int) -> Quality:
    """Measure an epoch's order, (batches, global batch), and compare it with the following epoch's."""
    by_class = np.arange(samples) * classes // samples
    packed = by_class[rng.permutation(samples, 0, "pack", "train")]
    batch_of = np.full((2, samples), -1)
    for epoch, ids in enumerate((batches, following)):
        batch_of[epoch, ids.ravel()] = np.repeat(np.arange(len(ids)), ids.shape[1])
    in_both = batch_of[:, (batch_of >= 0).all(0)]
    next_batches = batch_of[1][batches]
    return Quality(
        neighbours=float(np.mean([(np.diff(np.sort(ids)) == 1).sum() for ids in batches])),
        packed_classes=float(np.mean([len(np.unique(packed[ids])) for ids in batches])),
        sorted_classes=float(np.mean([len(np.unique(by_class[ids])) for ids in batches])),
        repeated_pairs=float(np.mean([_pairs(ids[ids >= 0]) for ids in next_batches])),
        correlation=float(np.corrcoef(in_both)[0, 1]),
    )


def _pairs(values: Ids) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def measured(counts: tuple[int, ...], global_batch: int, lanes: int, window: int, classes: int) -> Quality:
    plans = [EpochPlan(counts, 0, epoch, global_batch, lanes, window) for epoch in (0, 1)]
    return quality(epoch_ids(plans[0]), epoch_ids(plans[1]), sum(counts), classes)


def measured_uniform(counts: tuple[int, ...], global_batch: int, classes: int) -> Quality:
    plans = [EpochPlan(counts, 0, epoch, global_batch, 1, 1) for epoch in (0, 1)]
    return quality(uniform(plans[0]), uniform(plans[1]), sum(counts), classes)


# A small set in the proportions of ImageNet and the defaults: four slots a lane, windows of about two shards.
SMALL = ((100,) * 127 + (67,), 64)
CLASSES = 100
LANES, WINDOW = 16, 205


@pytest.fixture(scope="module")
def uniform_quality() -> Quality:
    return measured_uniform(*SMALL, CLASSES)


def test_the_defaults_are_close_to_a_uniform_order(uniform_quality: Quality) -> None:
    planned = measured(*SMALL, LANES, WINDOW, CLASSES)
    assert planned.packed_classes == pytest.approx(uniform_quality.packed_classes, rel=0.02)
    assert planned.neighbours < uniform_quality.neighbours + 1
    assert planned.repeated_pairs < 2 * uniform_quality.repeated_pairs + 1
    assert abs(planned.correlation) < 0.1
    # In a set sorted by class, the lanes still mix many classes: at least a third as many as a uniform order.
    assert planned.sorted_classes > uniform_quality.sorted_classes / 3


def test_without_lanes_and_windows_the_order_is_the_shards_own(uniform_quality: Quality) -> None:
    planned = measured(*SMALL, 1, 1, CLASSES)
    assert planned.neighbours > 60
    assert planned.repeated_pairs > 100 * (uniform_quality.repeated_pairs + 0.1)
    assert planned.sorted_classes < 3
    assert planned.packed_classes == pytest.approx(uniform_quality.packed_classes, rel=0.02)


@pytest.mark.parametrize(("lanes", "window"), [(1, WINDOW), (LANES, 1)])
def test_lanes_and_windows_are_both_needed(lanes: int, window: int) -> None:
    single, both = measured(*SMALL, lanes, window, CLASSES), measured(*SMALL, LANES, WINDOW, CLASSES)
    assert single.neighbours > 4 * both.neighbours
    assert single.sorted_classes <= both.sorted_classes


def test_a_batch_follows_the_classes_of_the_set() -> None:
    counts, global_batch = SMALL
    plan = EpochPlan(counts, 0, 0, global_batch, LANES, WINDOW)
    packed = (np.arange(plan.samples) * 10 // plan.samples)[rng.permutation(plan.samples, 0, "pack", "train")]
    seen = np.stack([np.bincount(packed[ids], minlength=10) for ids in epoch_ids(plan)])
    expected = global_batch / 10
    chi_squares = ((seen - expected) ** 2 / expected).sum(1)
    # Nine degrees of freedom: mean 9, deviation 4.2, of the mean of 199 batches 0.3; less without replacement.
    assert 7.7 < chi_squares.mean() < 10.3
    assert (chi_squares > 21.67).mean() < 0.05  # the 99th percentile


def main() -> None:
    counts = (1000,) * 1281 + (167,)
    rows = [("uniform", measured_uniform(counts, 128, 1000))]
    for lanes, window in (
        (1, 1),
        (1, 2048),
        (1, 16384),
        (8, 2048),
        (32, 1),
        (32, 256),
        (32, 2048),
        (32, 16384),
        (128, 2048),
    ):
        rows.append((f"{lanes} lanes, windows of {window:,}", measured(counts, 128, lanes, window, 1000)))
    for name, row in rows:
        sys.stdout.write(
            f"| {name} | {row.neighbours:.3f} | {row.packed_classes:.1f} | {row.sorted_classes:.1f}"
            f" | {row.repeated_pairs:.2f} | {row.correlation:+.3f} |\n"
        )


if __name__ == "__main__":
    main()
