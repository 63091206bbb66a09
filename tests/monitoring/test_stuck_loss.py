"""A loss that stays at ln(classes) is reported once, and not as long as the paper's own net may stay there."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.monitoring.stuck_loss import MOVED, LossWatch, stuck_sentence, watched

IMAGENET = LossWatch(classes=1000, steps_per_epoch=10_009)


def said_at(watch: LossWatch, losses: list[float], every: int) -> list[int]:
    """Return the steps at which a run with these logged losses is reported."""
    steps = []
    for number, loss in enumerate(losses, start=1):
        watch, said = watched(watch, every * number, loss)
        steps += [every * number] if said else []
    return steps


@given(
    classes=st.integers(2, 1000), steps_per_epoch=st.integers(1, 3000), every=st.sampled_from([1, 10, 100]),
    noise=st.lists(st.floats(-0.01, 0.015), min_size=1, max_size=20),
)  # fmt: skip
def test_a_loss_that_never_moves_is_reported_once_after_the_patience(
    classes: int, steps_per_epoch: int, every: int, noise: list[float]
) -> None:
    watch = LossWatch(classes, steps_per_epoch)
    count = 2 * max(watch.patience_steps // every, 20)
    losses = [math.log(classes) * (1 + noise[number % len(noise)]) for number in range(count)]
    (step,) = said_at(watch, losses, every)
    assert max(2000, 2 * steps_per_epoch, 20 * every) <= step < max(2000, 2 * steps_per_epoch, 20 * every) + every


@given(start=st.integers(1, 100), end=st.floats(0, 0.9), classes=st.integers(2, 1000))
def test_a_loss_that_falls_in_time_is_never_reported(start: int, end: float, classes: int) -> None:
    losses = [math.log(classes)] * start + [end * math.log(classes)] * 100 + [math.log(classes)] * 300
    assert said_at(LossWatch(classes, 500), losses, 10) == []


@given(share=st.floats(1.05, 3), classes=st.integers(2, 1000))
def test_a_loss_above_that_of_equal_probabilities_is_another_trouble(share: float, classes: int) -> None:
    assert said_at(LossWatch(classes, 12), [share * math.log(classes)] * 500, 10) == []


def test_the_papers_net_may_stay_there_for_longer_than_caffes_did() -> None:
    flat = [7.1] + [6.91] * 159  # 16,000 steps of 128 images are 8,000 of 256
    assert said_at(IMAGENET, flat + [6.9 - number / 50 for number in range(200)], 100) == []
    assert said_at(IMAGENET, flat * 2, 100) == [20_100]


def test_a_resumed_run_that_learns_is_not_reported() -> None:
    watch = IMAGENET
    for number in range(200):
        watch, said = watched(watch, 30_000 + 100 * number, 3.1 + 0.01 * (number % 7))
        assert not said
    assert watch.over


def test_single_batches_neither_move_it_nor_hide_it() -> None:
    flat = [MOVED * math.log(7) * (0.9 if number % 4 == 0 else 1.08) for number in range(3000)]
    assert said_at(LossWatch(7, 12), flat, 1) == [2000]


def test_the_sentence_says_what_to_look_at() -> None:
    said = stuck_sentence(1000, 20_100, 0.1)
    assert said.startswith("the loss has not moved from ln(1,000) = 6.91 in 20,100 steps: ")
    assert "alexnet_dist.show" in said
    assert "(0.1; the paper begins with 0.01" in said
