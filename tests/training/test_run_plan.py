"""The order of a run's batches: from any step on, for any number of replicas, the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.data.plan import PLAN_VERSION
from alexnet_dist.training.run_plan import BatchSpec, RunPlan
from support.plans import PLAIN


@dataclass(frozen=True)
class Line:
    """A task as plain values, which compare."""

    train: bool
    epoch: int
    step: int
    ids: tuple[int, ...]
    first_slot: int


def lines(plan: RunPlan, replica: int, replicas: int, step: int, evaluated_step: int) -> list[Line]:
    def line(task: BatchSpec) -> Line:
        return Line(task.train, task.epoch, task.step, tuple(task.ids.tolist()), task.first_slot)

    return [line(task) for task in plan.batches(replica, replicas, step, evaluated_step)]


@st.composite
def programmes(draw: st.DrawFn) -> RunPlan:
    counts = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)))
    return RunPlan(
        counts=counts,
        seed=draw(st.integers(0, 3)),
        global_batch=draw(st.integers(1, sum(counts))),
        lanes=draw(st.integers(1, 4)),
        window=draw(st.integers(1, 6)),
        accumulate=draw(st.integers(1, 3)),
        steps=draw(st.integers(1, 12)),
        validation_images=draw(st.integers(0, 9)),
        validation_rows=draw(st.integers(1, 4)),
        evaluate_every=draw(st.integers(1, 3)),
    )


@given(plan=programmes(), replicas=st.integers(1, 3), data=st.data())
def test_the_batches_from_any_step_are_the_tail_of_all(plan: RunPlan, replicas: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.steps))
    replica = data.draw(st.integers(0, replicas - 1))
    everything = lines(plan, replica, replicas, 0, 0)
    tail = lines(plan, replica, replicas, step, step)
    assert tail == everything[len(everything) - len(tail) :]
    done = everything[: len(everything) - len(tail)]
    assert sum(line.train for line in done) == step * plan.accumulate
    assert {line.step for line in tail if line.train} == set(range(step, plan.steps))


@given(plan=programmes(), data=st.data())
def test_a_checkpoint_before_its_evaluation_evaluates_first(plan: RunPlan, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.steps))
    resumed = lines(plan, 0, 1, step, step)
    before = data.draw(st.integers(0, max(0, step - 1)))
    owed = lines(plan, 0, 1, step, before)
    validation, rest = owed[: len(owed) - len(resumed)], owed[len(owed) - len(resumed) :]
    assert rest == resumed
    assert not any(line.train for line in validation)
    steps = plan.validation_steps(1) if plan.is_evaluated_after(step) else 0
    assert [line.step for line in validation] == list(range(steps))


@given(plan=programmes(), replicas=st.integers(1, 5))
def test_any_replicas_train_on_the_same_global_batches(plan: RunPlan, replicas: int) -> None:
    def batches(count: int) -> list[list[tuple[int, int]]]:
        """The (slot, sample) pairs of each step over all replicas, in order."""
        steps: list[list[tuple[int, int]]] = [[] for _ in range(plan.steps)]
        for replica in range(count):
            for line in lines(plan, replica, count, 0, 0):
                if line.train:
                    steps[line.step] += list(enumerate(line.ids, line.first_slot))
        return steps

    alone = batches(1)
    assert batches(replicas) == alone
    for batch in alone:
        assert [slot for slot, _ in batch] == list(range(plan.global_batch))


@given(plan=programmes(), replicas=st.integers(1, 4))
def test_each_evaluation_sees_each_image_once_in_as_many_steps_everywhere(plan: RunPlan, replicas: int) -> None:
    every = [lines(plan, replica, replicas, 0, 0) for replica in range(replicas)]
    made = sum(plan.is_evaluated_after(step) for step in range(1, plan.steps + 1))
    counts = {len([line for line in each if not line.train]) for each in every}
    assert counts == {made * plan.validation_steps(replicas) if made else 0}
    seen = [number for each in every for line in each if not line.train for number in line.ids if number >= 0]
    assert sorted(seen) == sorted([*range(plan.validation_images)] * made)
    assert {len(line.ids) for each in every for line in each if not line.train} <= {plan.validation_rows}


@given(plan=programmes())
def test_an_epoch_uses_each_sample_once_but_for_the_rest(plan: RunPlan) -> None:
    epochs: dict[int, list[int]] = {}
    for line in lines(plan, 0, 1, 0, 0):
        if line.train:
            assert line.epoch == line.step // plan.steps_per_epoch
            epochs.setdefault(line.epoch, []).extend(line.ids)
    for epoch, ids in epochs.items():
        assert len(set(ids)) == len(ids), epoch
        assert set(ids) <= set(range(sum(plan.counts)))
    full = [ids for ids in epochs.values() if len(ids) == plan.steps_per_epoch * plan.global_batch]
    assert len(full) >= len(epochs) - 1


@given(plan=programmes())
def test_evaluations_happen_after_whole_epochs(plan: RunPlan) -> None:
    where = []
    for left, right in pairwise([*lines(plan, 0, 1, 0, 0), None]):
        assert left is not None
        if not left.train and (right is None or right.train or right.step == 0):
            where.append(left.epoch * plan.steps_per_epoch)
    assert where == [step for step in range(1, plan.steps + 1) if plan.is_evaluated_after(step)]
    assert all(step % (plan.steps_per_epoch * plan.evaluate_every) == 0 for step in where)


def test_the_programme_of_a_small_run() -> None:
    assert PLAIN.steps_per_epoch == 3
    kinds = "".join("T" if line.train else "v" for line in lines(PLAIN, 0, 1, 0, 0))
    assert kinds == "TTTTTTvvvvTTTTTTvvvvTTTT"  # 2 micro-batches a step, 3 steps an epoch, 4 validation steps of 2 rows
    assert [step for step in range(9) if PLAIN.is_evaluated_after(step)] == [3, 6]
    every_other = replace(PLAIN, evaluate_every=2)
    assert [step for step in range(1, 9) if every_other.is_evaluated_after(step)] == [6]


def test_without_validation_there_are_no_evaluations() -> None:
    for plan in (replace(PLAIN, validation_images=0), replace(PLAIN, evaluate_every=0)):
        assert all(line.train for line in lines(plan, 0, 1, 0, 0))
        assert not any(plan.is_evaluated_after(step) for step in range(100))


def test_slots_and_micro_batches_of_a_replica() -> None:
    found = lines(replace(PLAIN, steps=1), 1, 2, 0, 0)
    assert [(line.first_slot, len(line.ids)) for line in found] == [(3, 1), (4, 2)]  # slots 3-5, in two parts
    whole = lines(replace(PLAIN, steps=1, accumulate=1), 0, 1, 0, 0)[0].ids
    assert [number for line in found for number in line.ids] == list(whole[3:])


def test_ids_are_numpy_int64() -> None:
    assert {task.ids.dtype for task in PLAIN.batches(0, 1, 0, 0)} == {np.dtype(np.int64)}


def test_the_position_is_all_that_the_order_depends_on() -> None:
    assert PLAIN.position(5, "abc") == {
        "plan_version": PLAN_VERSION,
        "seed": 3,
        "step": 5,
        "global_batch": 6,
        "lanes": 2,
        "window": 4,
        "manifest_sha256": "abc",
    }
