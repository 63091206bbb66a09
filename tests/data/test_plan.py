"""The guarantees of the epoch plan, as properties over random sets, batches, lanes and replicas."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_dist.data.plan import (
    PLAN_VERSION,
    EpochPlan,
    micro_batch,
    replica_slots,
    tower_half,
    validation_ids,
    validation_steps,
)


@st.composite
def plans(draw: st.DrawFn) -> EpochPlan:
    """Draw small plans; lanes and windows may be larger than the global batch and the set."""
    counts = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12)))
    return EpochPlan(
        counts,
        seed=draw(st.integers(0, 2**63)),
        epoch=draw(st.integers(0, 200)),
        global_batch=draw(st.integers(1, min(sum(counts), 24))),
        lanes=draw(st.integers(1, 40)),
        window=draw(st.integers(1, 50)),
    )


def later_epoch(plan: EpochPlan, epochs: int = 1) -> EpochPlan:
    return EpochPlan(plan.counts, plan.seed, plan.epoch + epochs, plan.global_batch, plan.lanes, plan.window)


def all_ids(plan: EpochPlan) -> list[int]:
    return [i for batch in range(plan.batches) for i in plan.sample_ids(batch, 0, plan.global_batch).tolist()]


def omitted(plan: EpochPlan) -> set[int]:
    return set(range(plan.samples)) - set(all_ids(plan))


@given(plans())
def test_each_sample_appears_at_most_once_and_fewer_than_a_batch_are_omitted(plan: EpochPlan) -> None:
    ids = all_ids(plan)
    assert len(ids) == len(set(ids)) == plan.batches * plan.global_batch
    assert set(ids) <= set(range(plan.samples))
    assert plan.samples - len(ids) < plan.global_batch


@given(plans())
def test_no_sample_is_omitted_twice_in_a_row(plan: EpochPlan) -> None:
    assert not omitted(plan) & omitted(later_epoch(plan))


@settings(max_examples=20)
@given(plans(), st.integers(1, 12))
def test_all_samples_are_omitted_equally_often(plan: EpochPlan, epochs: int) -> None:
    omissions = Counter(dict.fromkeys(range(plan.samples), 0))
    for later in range(epochs):
        omissions.update(omitted(later_epoch(plan, later)))
    assert max(omissions.values()) - min(omissions.values()) <= 1


@given(plans())
def test_lanes_are_disjoint_pieces_as_long_as_their_slots(plan: EpochPlan) -> None:
    spans = [plan.lane_slots(lane) for lane in range(plan.used_lanes)]
    assert [slot for first, end in spans for slot in range(first, end)] == list(range(plan.global_batch))
    widths = [end - first for first, end in spans]
    assert min(widths) >= 1
    assert max(widths) - min(widths) <= 1
    shard_of = np.repeat(np.arange(len(plan.counts)), plan.counts)
    lanes = [
        np.concatenate([plan.sample_ids(batch, first, end) for batch in range(plan.batches)]) for first, end in spans
    ]
    assert [len(lane) for lane in lanes] == [plan.batches * width for width in widths]
    # Lanes are parts of one sequence: together they read each shard once, and once more per boundary inside it.
    touched = sum(len(set(shard_of[lane])) for lane in lanes)
    assert touched <= len(plan.counts) + plan.used_lanes - 1


@given(plans())
def test_a_window_never_reaches_outside_its_lane(plan: EpochPlan) -> None:
    whole_lane = EpochPlan(plan.counts, plan.seed, plan.epoch, plan.global_batch, plan.lanes, window=plan.samples)
    unshuffled = EpochPlan(plan.counts, plan.seed, plan.epoch, plan.global_batch, plan.lanes, window=1)
    for lane in range(plan.used_lanes):
        first, end = plan.lane_slots(lane)
        pieces = [
            np.concatenate([variant.sample_ids(batch, first, end) for batch in range(variant.batches)])
            for variant in (plan, whole_lane, unshuffled)
        ]
        assert sorted(pieces[0]) == sorted(pieces[1]) == sorted(pieces[2])
        for start in range(0, len(pieces[0]), plan.window):
            window = slice(start, start + plan.window)
            assert sorted(pieces[0][window]) == sorted(pieces[2][window])


@given(plans(), st.integers(1, 30), st.integers(1, 9), st.data())
def test_a_batch_is_the_same_for_any_replicas_micro_batches_and_halves(
    plan: EpochPlan, replicas: int, micro_batches: int, data: st.DataObject
) -> None:
    batch = data.draw(st.integers(0, plan.batches - 1))
    ids: list[int] = []
    for replica in range(replicas):
        slots = replica_slots(replica, replicas, plan.global_batch)
        for index in range(micro_batches):
            micro = micro_batch(index, micro_batches, *slots)
            halves = [tower_half(tower, *micro) for tower in (0, 1)]
            assert halves[0][1] - halves[0][0] == (micro[1] - micro[0]) // 2
            for half in halves:
                ids += plan.sample_ids(batch, *half).tolist()
    assert ids == plan.sample_ids(batch, 0, plan.global_batch).tolist()


@given(plans())
def test_a_plan_is_a_pure_function_of_its_fields(plan: EpochPlan) -> None:
    np.random.default_rng().random()
    again = later_epoch(plan, 0)
    assert again == plan
    assert all_ids(again) == all_ids(plan)


def test_seed_and_epoch_change_the_order() -> None:
    base = EpochPlan((100, 100), seed=0, epoch=0, global_batch=8, lanes=4, window=50)
    assert all_ids(base) != all_ids(later_epoch(base))
    assert all_ids(base) != all_ids(EpochPlan((100, 100), seed=1, epoch=0, global_batch=8, lanes=4, window=50))


def test_this_version_keeps_its_order() -> None:
    """A changed order breaks resume: raise PLAN_VERSION, then update this hash."""
    plan = EpochPlan((97, 1, 100, 55), seed=7, epoch=3, global_batch=16, lanes=6, window=20)
    text = ",".join(map(str, all_ids(plan)))
    assert (PLAN_VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "d8671c5ba0c45c8a")


def test_an_epoch_of_imagenet_leaves_out_fifteen_and_spreads_over_replicas() -> None:
    counts = (1000,) * 1281 + (167,)
    plan = EpochPlan(counts, seed=0, epoch=3, global_batch=128, lanes=48, window=2048)
    batches = np.stack([plan.sample_ids(batch, 0, 128) for batch in range(plan.batches)])
    assert plan.samples - len(np.unique(batches)) == 15
    first, end = replica_slots(3, 8, 128)
    assert len(np.unique(batches[:, first:end] // 1000)) <= 1282 // 8 + 2


def test_neighbours_in_a_shard_are_spread() -> None:
    """Few adjacent ids share a batch: a uniform order has 128 * 127 / N = 1.6 such pairs per batch."""
    plan = EpochPlan((1000,) * 10, seed=0, epoch=0, global_batch=128, lanes=32, window=2048)
    pairs = [
        (np.diff(np.sort(plan.sample_ids(batch, 0, plan.global_batch))) == 1).sum() for batch in range(plan.batches)
    ]
    assert np.mean(pairs) < 4.0


@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 9))
def test_validation_covers_each_image_once_in_equal_steps(images: int, replicas: int, rows: int) -> None:
    steps = validation_steps(images, replicas, rows)
    batches = [
        validation_ids(step, replica, replicas, images, rows) for step in range(steps) for replica in range(replicas)
    ]
    assert {len(batch) for batch in batches} == {rows}
    seen = np.concatenate(batches)
    assert seen.dtype == np.int64
    assert sorted(seen[seen >= 0].tolist()) == list(range(images))
    assert set(seen[seen < 0].tolist()) <= {-1}
    last = [validation_ids(steps - 1, replica, replicas, images, rows) for replica in range(replicas)]
    assert any((batch >= 0).any() for batch in last), "an unnecessary step"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_batch": 11}, "data.global_batch: 11 is more than the 10 samples of the set"),
        ({"global_batch": 0}, "data.global_batch: 0; expected at least 1"),
        ({"lanes": 0}, "data.lanes: 0"),
        ({"window": 0}, "data.window: 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(change: dict[str, int], message: str) -> None:
    fields = {"seed": 0, "epoch": 0, "global_batch": 2, "lanes": 1, "window": 4} | change
    with pytest.raises(ValueError, match=message):
        EpochPlan((6, 4), **fields)


@pytest.mark.parametrize("batch_and_slots", [(-1, 0, 2), (5, 0, 2), (0, -1, 2), (0, 1, 3), (0, 2, 1)])
def test_a_slot_outside_the_epoch_is_an_error(batch_and_slots: tuple[int, int, int]) -> None:
    plan = EpochPlan((6, 4), seed=0, epoch=0, global_batch=2, lanes=1, window=4)
    with pytest.raises(IndexError):
        plan.sample_ids(*batch_and_slots)
