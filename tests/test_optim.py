"""The paper's update rule, number by number, and when the learning rate drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet_dist.optim import Progress, Rule, Schedule, after_evaluation, learning_rate, update

Array = npt.NDArray[np.float64]
RATES = (0.1, 0.1, 0.1, 0.01, 0.01, 0.01)
SHAPES = {"conv1.weight": (2, 3), "conv1.bias": (4,), "fc8.own.weight": (3, 2), "fc8.own.bias": (2,)}


def tensors(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }


def assert_close(found: Tensor, wanted: Array) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


def zeros() -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def literal(w: Array, g: Array, v: Array, rate: float, momentum: float, decay: float) -> None:
    """Apply §5's two lines to one tensor, number by number, in place."""
    for at in np.ndindex(*w.shape):
        v[at] = momentum * v[at] - decay * rate * w[at] - rate * g[at]
        w[at] = w[at] + v[at]


@settings(max_examples=50, deadline=None)
@given(
    rates=st.lists(st.floats(1e-4, 10), min_size=1, max_size=6),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.0005, 0.1]),
    factor=st.sampled_from([0.0, 1.0, 2.0]),
)
@example(rates=list(RATES), momentum=0.9, decay=0.0005, factor=1.0)
def test_the_update_is_the_papers(rates: list[float], momentum: float, decay: float, factor: float) -> None:
    rule = Rule(momentum, decay, factor)
    weights, velocities = tensors(0), zeros()
    wanted = {name: values.numpy().copy() for name, values in weights.items()}
    memory = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step, rate in enumerate(rates):
        gradients = tensors(step + 1)
        update(weights, gradients, velocities, rate, rule)
        for name, w in wanted.items():
            of_kind = (rate, momentum, decay) if name.endswith("weight") else (factor * rate, momentum, 0.0)
            literal(w, gradients[name].numpy(), memory[name], *of_kind)
            if momentum:
                assert_close(velocities[name], memory[name])
            assert_close(weights[name], w)


def test_in_float32_the_update_is_the_papers_to_a_rounding() -> None:
    weights, gradients = tensors(0), tensors(1)
    narrow = {name: values.float() for name, values in weights.items()}
    velocities = {name: values.float() for name, values in tensors(2, 1e-5).items()}
    memory = {name: values.double().numpy().copy() for name, values in velocities.items()}
    update(narrow, {name: values.float() for name, values in gradients.items()}, velocities, 1e-5, Rule())
    for name, v in memory.items():
        w = weights[name].numpy()
        literal(w, gradients[name].numpy(), v, 1e-5, 0.9, 0.0005 if name.endswith("weight") else 0.0)
        assert np.abs(velocities[name].numpy() - v).max() <= 2e-7 * np.abs(v).max()
        assert np.abs(narrow[name].numpy() - w).max() <= 1e-7 * np.abs(w).max()


def test_it_is_torchs_sgd_until_the_rate_drops() -> None:
    ours, velocities = {"w.weight": torch.ones(3, dtype=torch.float64)}, {"w.weight": torch.zeros(3).double()}
    theirs = torch.ones(3, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.0005)
    apart = []
    for step, rate in enumerate(RATES):
        theirs.grad = torch.full((3,), 1.0 + step, dtype=torch.float64)
        sgd.param_groups[0]["lr"] = rate
        before = sgd.state[theirs]["momentum_buffer"].clone() if step else torch.zeros(3)
        sgd.step()
        update(ours, {"w.weight": theirs.grad}, velocities, rate, Rule())
        apart.append(float((ours["w.weight"] - theirs.detach()).abs().max()))
        if step == 3:  # SGD rescales the step that is under way, the paper's rule does not
            assert apart[-1] == pytest.approx(0.9 * (0.1 - 0.01) * float(before[0]), rel=1e-9)
    assert max(apart[:3]) <= 1e-14
    assert min(apart[3:]) > 0.1


def test_the_update_is_in_place_and_leaves_gradients_alone() -> None:
    weights, gradients, velocities = tensors(0), tensors(1), zeros()
    held, before = dict(weights), {name: values.clone() for name, values in gradients.items()}
    update(weights, gradients, velocities, 0.1, Rule())
    assert all(weights[name] is values for name, values in held.items())
    assert all(gradients[name].equal(values) for name, values in before.items())


def test_only_biases_or_only_weights_can_be_updated() -> None:
    for kind in ("weight", "bias"):
        weights, gradients, velocities = (
            {name: values for name, values in every.items() if name.endswith(kind)}
            for every in (tensors(0), tensors(1), zeros())
        )
        update(weights, gradients, velocities, 0.1, Rule())
        assert all(values.abs().min() > 0 for values in velocities.values())


def test_without_decay_weights_move_by_their_gradients_alone() -> None:
    weights, velocities = {"w.weight": torch.full((1,), 100.0)}, {"w.weight": torch.zeros(1)}
    update(weights, {"w.weight": torch.zeros(1)}, velocities, 0.1, Rule(weight_decay=0.0))
    assert weights["w.weight"].item() == 100
    update(weights, {"w.weight": torch.zeros(1)}, velocities, 0.1, Rule(weight_decay=0.5))
    assert weights["w.weight"].item() == 95


def plateau(**changes: object) -> Schedule:
    return replace(Schedule(0.01, "plateau", 10.0, patience=2, least_improvement=0.01), **changes)  # type: ignore[arg-type]


def rates(schedule: Schedule, errors: Sequence[float]) -> list[float]:
    """Return the rate after each evaluation."""
    progress, found = Progress(), []
    for error in errors:
        progress = after_evaluation(schedule, progress, error)
        found.append(learning_rate(schedule, progress, 0, 1))
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
        after = after_evaluation(schedule, progress, error)
        assert after.drops - progress.drops in (0, 1)
        if after.drops > progress.drops:
            assert index - last_drop >= patience
            last_drop = index
        assert after.drops <= most
        assert after.best_error is not None
        assert after.best_error <= (progress.best_error if progress.best_error is not None else 1)
        assert after == after_evaluation(schedule, progress, error)
        progress = after


def test_plateau_is_blind_to_steps() -> None:
    assert learning_rate(plateau(drop_epochs=(1.0,)), Progress(drops=2), 10**6, 10) == 0.01 / 100


def test_epochs_drop_when_they_are_complete() -> None:
    schedule = Schedule(0.01, "epochs", 10.0, drop_epochs=(1.5, 3.0))
    found = [learning_rate(schedule, Progress(drops=3), step, 10) for step in range(40)]
    assert found == [0.01] * 15 + [0.001] * 15 + [0.0001] * 10


def test_epochs_without_drops_keep_the_rate() -> None:
    assert learning_rate(Schedule(0.01, "epochs", 10.0), Progress(), 10**6, 10) == 0.01


def test_the_2012_sources_factor() -> None:
    """#170 of the source: four equal steps, 250 from first to last."""
    schedule = Schedule(0.01, "epochs", 250 ** (1 / 3), drop_epochs=(22.5, 45, 67.5))
    found = [learning_rate(schedule, Progress(), step, 2) for step in (0, 45, 90, 135)]
    assert found == pytest.approx([0.01, 0.001587, 0.000252, 0.00004], rel=2e-3)
