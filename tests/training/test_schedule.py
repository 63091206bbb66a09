"""When learning rates and noise change, and how rates warm up and follow the global batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist import config
from alexnet_dist.config import Config, Event
from alexnet_dist.training.build import rule_of, schedule_of
from alexnet_dist.training.optim import Rates, Rule
from alexnet_dist.training.schedule import Progress, Schedule, after_evaluation, colour_noise_at, rates_at


def plateau(**changes: object) -> Schedule:
    return replace(Schedule(0.01, "plateau", 10.0, patience=2, least_improvement=0.01), **changes)  # type: ignore[arg-type]


def rates(schedule: Schedule, errors: Sequence[float]) -> list[float]:
    """Return the learning rate after each evaluation."""
    progress, found = Progress(), []
    for error in errors:
        progress = after_evaluation(schedule, progress, error, 0, 10)
        found.append(rates_at(schedule, progress, 0, 1).weights)
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
    assert rates_at(plateau(drop_epochs=(1.0,)), Progress(drops=2), 10**6, 10).weights == 0.01 / 100


def test_epochs_drop_when_they_are_complete() -> None:
    schedule = Schedule(0.01, "epochs", 10.0, drop_epochs=(1.5, 3.0))
    found = [rates_at(schedule, Progress(drops=3), step, 10).weights for step in range(40)]
    assert found == [0.01] * 15 + [0.001] * 15 + [0.0001] * 10


def test_epochs_without_drops_keep_the_rate() -> None:
    assert rates_at(Schedule(0.01, "epochs", 10.0), Progress(), 10**6, 10).weights == 0.01


def test_the_2012_sources_factor() -> None:
    """#170 of the source: four equal steps, 250 from first to last."""
    schedule = Schedule(0.01, "epochs", 250 ** (1 / 3), drop_epochs=(22.5, 45, 67.5))
    found = [rates_at(schedule, Progress(), step, 2).weights for step in (0, 45, 90, 135)]
    assert found == pytest.approx([0.01, 0.001587, 0.000252, 0.00004], rel=2e-3)


# Events.

SOURCE2012 = config.load([Path("source2012")], []).config
EPOCH = 10_009  # steps


def test_the_logged_schedule_of_layers_145() -> None:
    schedule = schedule_of(SOURCE2012)
    rows = [
        (0, 0.01, {}, 0.1),
        (25, 0.001, {}, 0.1),
        (51, 0.0001, {}, 0.1),
        (67, 0.0001, {"conv1": 0.00001}, 0.0),
        (72, 0.0001, {"conv1": 0.0}, 0.0),
        (79, 0.00001, {"conv1": 0.0}, 0.0),
    ]
    for (epoch, weights, layers, noise), (end, *_) in pairwise([*rows, (91, 0.0, {}, 0.0)]):
        for step in (epoch * EPOCH, end * EPOCH - 1):
            assert rates_at(schedule, Progress(), step, EPOCH) == Rates(weights, 0.02, layers)
            assert colour_noise_at(0.1, SOURCE2012.run.events, step, EPOCH) == noise
    assert SOURCE2012.run.epochs == 91


def test_the_schedule_of_run_170() -> None:
    hands_off = config.load([Path("source2013_hands_off")], []).config
    schedule = schedule_of(hands_off)
    found = [rates_at(schedule, Progress(), round(epoch * EPOCH), EPOCH) for epoch in (0, 22.5, 45, 67.5, 74, 89.9)]
    assert [rates.weights for rates in found] == [0.01, 0.001587, 0.000252, 0.00004, 0.00004, 0.00004]
    assert [rates.biases for rates in found] == [0.02, 0.02, 0.002, 0.002, 0.002, 0.002]
    assert [rates.layers for rates in found] == [{}, {}, {}, {}, {"conv1": 0.0}, {"conv1": 0.0}]
    assert [found[0].weights / found[index].weights for index in (1, 2, 3)] == pytest.approx(
        [250 ** (1 / 3), 250 ** (2 / 3), 250], rel=1e-3
    )


@given(
    epochs=st.lists(st.floats(0.01, 9), min_size=1, max_size=5, unique=True).map(sorted),
    steps_per_epoch=st.integers(1, 40),
    data=st.data(),
)
def test_a_value_is_what_the_last_event_before_it_set(
    epochs: list[float], steps_per_epoch: int, data: st.DataObject
) -> None:
    value = st.one_of(st.none(), st.floats(0, 1))
    events = tuple(
        Event(epoch=epoch, learning_rate=data.draw(value), colour_noise=data.draw(value)) for epoch in epochs
    )
    schedule = Schedule(2.0, "epochs", 10.0, events=events, bias_factor=3.0)
    weights, noise = 2.0, 5.0
    for step in range(10 * steps_per_epoch):
        for event in events:
            if round(event.epoch * steps_per_epoch) == step:
                weights = weights if event.learning_rate is None else event.learning_rate
                noise = noise if event.colour_noise is None else event.colour_noise
        assert rates_at(schedule, Progress(), step, steps_per_epoch) == Rates(weights, 3.0 * weights)
        assert colour_noise_at(5.0, events, step, steps_per_epoch) == noise


def test_own_rates_do_not_drop_but_warm_up_and_scale() -> None:
    words = ["data.global_batch=256", "optim.reference_batch=128", "optim.warmup_epochs=1", "optim.schedule=epochs",
             "optim.bias_learning_rate=0.5", "optim.layer_learning_rates={fc8: 0.25}", "optim.drop_epochs=[2]",
             "run.events=[{epoch: 3, bias_learning_rate: 0.125, layer_learning_rates: {conv1: 0}}]"]  # fmt: skip
    schedule = schedule_of(config.load([], words).config)
    found = [rates_at(schedule, Progress(), step, 4) for step in (1, 4, 8, 12)]
    assert found == [
        Rates(0.01, 0.5, {"fc8": 0.25}),
        Rates(0.02, 1.0, {"fc8": 0.5}),
        Rates(0.002, 1.0, {"fc8": 0.5}),
        Rates(0.002, 0.25, {"fc8": 0.5, "conv1": 0.0}),
    ]


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
        [rates_at(each, progress, step, steps_per_epoch).weights for step in range(61 * steps_per_epoch)]
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
        assert rates_at(schedule, Progress(), 0, 10_009).weights == 0.01
    assert rule_of(Config()) == Rule()


def test_every_setting_reaches_the_rule_or_the_schedule() -> None:
    recipe = {
        "momentum": 0.8, "weight_decay": 0.002, "bias_learning_rate_factor": 2.0, "learning_rate": 0.03,
        "schedule": "epochs", "drop_factor": 5.0, "patience": 4, "least_improvement": 0.25, "max_drops": 2,
        "drop_epochs": [7.5, 9], "warmup_epochs": 2.0,
    }  # fmt: skip
    settings = config.load([], [f"optim.{key}={value}" for key, value in recipe.items()]).config
    assert rule_of(settings) == Rule(momentum=0.8, weight_decay=0.002)
    assert schedule_of(settings) == Schedule(0.03, "epochs", 5.0, 4, 0.25, 2, (7.5, 9.0), 2.0, bias_factor=2.0)


def test_the_rate_follows_the_global_batch_where_it_has_a_reference() -> None:
    words = ["data.global_batch=8192", "optim.reference_batch=128", "optim.warmup_epochs=5", "optim.rule=lars"]
    settings = config.load([], words).config
    schedule = schedule_of(settings)
    rates = [rates_at(schedule, Progress(), step, 156).weights for step in (0, 389, 779, 780, 10_000)]
    assert rates == pytest.approx([0.64 / 780, 0.32, 0.64, 0.64, 0.64], rel=1e-12)
    assert rule_of(settings).trust_coefficient == 0.001
