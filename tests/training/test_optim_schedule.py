"""When the learning rate drops, and how it warms up and follows the global batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.training.build import rule_of, schedule_of
from alexnet_dist.training.optim import Progress, Rule, Schedule, after_evaluation, learning_rate_at


def plateau(**changes: object) -> Schedule:
    return replace(Schedule(0.01, "plateau", 10.0, patience=2, least_improvement=0.01), **changes)  # type: ignore[arg-type]


def rates(schedule: Schedule, errors: Sequence[float]) -> list[float]:
    """Return the learning rate after each evaluation."""
    progress, found = Progress(), []
    for error in errors:
        progress = after_evaluation(schedule, progress, error, 0, 10)
        found.append(learning_rate_at(schedule, progress, 0, 1))
    return found


@pytest.mark.parametrize(
    ("changes", "errors", "drops"),
    [
        ({}, [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 0]),  # always better
        ({}, [0.9, 0.895, 0.899, 0.896, 0.898], [0, 0, 1, 1, 2]),  # better by too little is not better
        ({}, [0.9, 0.95, 0.88, 0.95, 0.95], [0, 0, 0, 0, 1]),  # the wait begins anew with the best
        ({}, [0.5, 0.9, 0.9, 0.48, 0.9, 0.9], [0, 0, 1, 1, 1, 2]),  # the best is kept over a drop
        ({}, [0.9, 0.896, 0.892, 0.888], [0, 0, 1, 1]),  # small steps add up: 0.888 is better than 0.9
        ({"patience": 1}, [0.5] * 6, [0, 1, 2, 3, 3, 3]),  # three drops at most; an equal error is no better
        ({"max_drops": 0}, [0.5] * 6, [0] * 6),
        ({"patience": 1, "least_improvement": 0.0}, [0.5, 0.4999, 0.4999], [0, 0, 1]),
    ],
)
def test_plateau_drops_when_the_error_stops_improving(
    changes: dict[str, float], errors: list[float], drops: list[int]
) -> None:
    assert rates(plateau(**changes), errors) == [0.01 / 10**drop for drop in drops]


@given(
    errors=st.lists(st.floats(0, 1), max_size=30),
    patience=st.integers(1, 4),
    least=st.floats(0, 0.1),
    most=st.integers(0, 4),
)
def test_plateau_keeps_its_promises(errors: list[float], patience: int, least: float, most: int) -> None:
    schedule, progress, last_drop = plateau(patience=patience, least_improvement=least, max_drops=most), Progress(), -1
    for index, error in enumerate(errors):
        after = after_evaluation(schedule, progress, error, 0, 10)
        assert after.drops - progress.drops in (0, 1)
        if after.drops > progress.drops:
            assert index - last_drop >= patience
            last_drop = index
        assert after.drops <= most
        assert after.best_error is not None
        assert after.best_error <= (progress.best_error if progress.best_error is not None else 1)
        assert after == after_evaluation(schedule, progress, error, 0, 10)
        progress = after


def test_plateau_has_patience_while_the_rate_still_grows() -> None:
    schedule, progress = plateau(patience=1, warmup_epochs=2.0), Progress(best_error=0.5)
    warming = after_evaluation(schedule, progress, 0.9, 19, 10)
    assert warming == progress
    assert after_evaluation(schedule, warming, 0.9, 20, 10).drops == 1
    assert after_evaluation(schedule, warming, 0.4, 19, 10).best_error == 0.4


def test_plateau_is_blind_to_steps() -> None:
    assert learning_rate_at(plateau(drop_epochs=(1.0,)), Progress(drops=2), 10**6, 10) == 0.01 / 100


def test_epochs_drop_when_they_are_complete() -> None:
    schedule = Schedule(0.01, "epochs", 10.0, drop_epochs=(1.5, 3.0))
    found = [learning_rate_at(schedule, Progress(drops=3), step, 10) for step in range(40)]
    assert found == [0.01] * 15 + [0.001] * 15 + [0.0001] * 10


def test_epochs_without_drops_keep_the_rate() -> None:
    assert learning_rate_at(Schedule(0.01, "epochs", 10.0), Progress(), 10**6, 10) == 0.01


def test_the_2012_sources_factor() -> None:
    """#170 of the source: four equal steps, 250 from first to last."""
    schedule = Schedule(0.01, "epochs", 250 ** (1 / 3), drop_epochs=(22.5, 45, 67.5))
    found = [learning_rate_at(schedule, Progress(), step, 2) for step in (0, 45, 90, 135)]
    assert found == pytest.approx([0.01, 0.001587, 0.000252, 0.00004], rel=2e-3)


# Warm-up and scaling.


@given(
    warmup=st.floats(0, 20),
    steps_per_epoch=st.integers(1, 50),
    drops=st.lists(st.floats(20, 60), max_size=3, unique=True).map(sorted),
    kind=st.sampled_from(["plateau", "epochs"]),
)
def test_a_warm_up_grows_in_equal_steps_and_touches_nothing_later(
    warmup: float, steps_per_epoch: int, drops: list[float], kind: Literal["plateau", "epochs"]
) -> None:
    plain = Schedule(0.3, kind, 10.0, drop_epochs=tuple(drops))
    schedule, progress = replace(plain, warmup_epochs=warmup), Progress(drops=2 if kind == "plateau" else 0)
    found, without = (
        [learning_rate_at(each, progress, step, steps_per_epoch) for step in range(61 * steps_per_epoch)]
        for each in (schedule, plain)
    )
    end = round(warmup * steps_per_epoch)
    assert found[end:] == without[end:]
    assert found[:end] == pytest.approx([(step + 1) / end * without[0] for step in range(end)], rel=1e-12)
    assert all(earlier < later for earlier, later in itertools.pairwise(found[:end]))
    assert end == 0 or found[end - 1] == without[0]


def test_the_papers_run_has_neither_warm_up_nor_scaling_nor_lars() -> None:
    for batch in (128, 4096):
        schedule = schedule_of(config.load([], [f"data.global_batch={batch}"]).config)
        assert learning_rate_at(schedule, Progress(), 0, 10_009) == 0.01
    assert rule_of(Config()) == Rule()


def test_every_setting_reaches_the_rule_or_the_schedule() -> None:
    recipe = {
        "momentum": 0.8, "weight_decay": 0.002, "bias_learning_rate_factor": 2.0, "learning_rate": 0.03,
        "schedule": "epochs", "drop_factor": 5.0, "patience": 4, "least_improvement": 0.25, "max_drops": 2,
        "drop_epochs": [7.5, 9], "warmup_epochs": 2.0,
    }  # fmt: skip
    settings = config.load([], [f"optim.{key}={value}" for key, value in recipe.items()]).config
    assert rule_of(settings) == Rule(momentum=0.8, weight_decay=0.002, bias_rate_factor=2.0)
    assert schedule_of(settings) == Schedule(0.03, "epochs", 5.0, 4, 0.25, 2, (7.5, 9.0), 2.0)


def test_the_rate_follows_the_global_batch_where_it_has_a_reference() -> None:
    words = ["data.global_batch=8192", "optim.reference_batch=128", "optim.warmup_epochs=5", "optim.rule=lars"]
    settings = config.load([], words).config
    schedule = schedule_of(settings)
    rates = [learning_rate_at(schedule, Progress(), step, 156) for step in (0, 389, 779, 780, 10_000)]
    assert rates == pytest.approx([0.64 / 780, 0.32, 0.64, 0.64, 0.64], rel=1e-12)
    assert rule_of(settings).trust_coefficient == 0.001
