"""The paper's update rule and LARS, number by number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from alexnet_dist.training import optim
from alexnet_dist.training.optim import Rates, Rule, update

Array = npt.NDArray[np.float64]
RATES = (0.1, 0.1, 0.1, 0.01, 0.01, 0.01)
EQUAL = Rates(0.1, 0.1)
SHAPES = {
    "conv1.weight": (2, 3),
    "conv1.bias": (4,),
    "fc8.own.weight": (3, 2),
    "fc8.own.bias": (2,),
    "fc8.other.weight": (3, 2),
}


def tensors(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }


def assert_close(found: Tensor, wanted: Array) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-11, atol=1e-11 * np.abs(wanted).max())


def zeros() -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def literal(w: Array, g: Array, v: Array, learning_rate: float, momentum: float, decay: float) -> None:
    """Apply §5's two lines to one tensor, number by number, in place."""
    for at in np.ndindex(*w.shape):
        v[at] = momentum * v[at] - decay * learning_rate * w[at] - learning_rate * g[at]
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
    rule = Rule(momentum, decay)
    weights, velocities = tensors(0), zeros()
    wanted = {name: values.numpy().copy() for name, values in weights.items()}
    memory = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step, learning_rate in enumerate(rates):
        gradients = tensors(step + 1)
        update(weights, gradients, velocities, Rates(learning_rate, factor * learning_rate), rule)
        for name, w in wanted.items():
            of_kind = (
                (learning_rate, momentum, decay) if name.endswith("weight") else (factor * learning_rate, momentum, 0.0)
            )
            literal(w, gradients[name].numpy(), memory[name], *of_kind)
            if momentum:
                assert_close(velocities[name], memory[name])
            assert_close(weights[name], w)


def test_in_float32_the_update_is_the_papers_to_a_rounding() -> None:
    weights, gradients = tensors(0), tensors(1)
    narrow = {name: values.float() for name, values in weights.items()}
    velocities = {name: values.float() for name, values in tensors(2, 1e-5).items()}
    memory = {name: values.double().numpy().copy() for name, values in velocities.items()}
    update(narrow, {name: values.float() for name, values in gradients.items()}, velocities, Rates(1e-5, 1e-5), Rule())
    for name, v in memory.items():
        w = weights[name].numpy()
        literal(w, gradients[name].numpy(), v, 1e-5, 0.9, 0.0005 if name.endswith("weight") else 0.0)
        assert np.abs(velocities[name].numpy() - v).max() <= 2e-7 * np.abs(v).max()
        assert np.abs(narrow[name].numpy() - w).max() <= 1e-7 * np.abs(w).max()


def test_a_layer_may_have_its_own_rate() -> None:
    """conv1 slowed and frozen, as in the source's log: a frozen layer goes on by its velocity, which decays."""
    weights, velocities, gradients = tensors(0), tensors(2), tensors(1)
    wanted, memory = ({n: v.numpy().copy() for n, v in each.items()} for each in (weights, velocities))
    for own in (1e-5, 0.0):
        update(weights, gradients, velocities, Rates(0.1, 0.3, {"conv1": own}), Rule())
        for name, w in wanted.items():
            learning_rate = 0.3 if name.endswith("bias") else own if name == "conv1.weight" else 0.1
            literal(
                w, gradients[name].numpy(), memory[name], learning_rate, 0.9, 0.0005 if name.endswith("weight") else 0.0
            )
            assert_close(weights[name], w)
    assert_close(velocities["conv1.weight"], memory["conv1.weight"])


def cuda_kernels(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], *, fused: bool, foreach: bool, **constants: Any
) -> None:
    """Do in float32 what torch's two kinds of kernels do on CUDA: the fused one takes its constants as float32."""
    numbers = {name: constants[name] for name in ("weight_decay", "momentum", "lr", "dampening")}
    assert fused != foreach
    assert constants["maximize"]
    if fused:
        numbers = {name: np.float32(number) for name, number in numbers.items()}
        numbers["scale"] = np.float32(1) - numbers["dampening"]
    else:
        numbers["scale"] = np.float32(1 - numbers["dampening"])
    for weight, gradient, velocity in zip(params, grads, buffers, strict=True):
        direction = -gradient + float(numbers["weight_decay"]) * weight
        velocity.mul_(float(numbers["momentum"])).add_(direction, alpha=float(numbers["scale"]))
        weight.add_(velocity, alpha=-float(numbers["lr"]))


@pytest.mark.parametrize("learning_rate", [1e-2, 1e-5, 1e-6])
def test_on_cuda_the_learning_rate_is_not_rounded(learning_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated: with the fused kernel a learning rate is a multiple of 2^-24, 1e-5 for example 1.00136e-5."""

    def error(on_cuda: bool) -> float:
        monkeypatch.setattr(optim, "_is_on_cuda", lambda _: on_cuda)
        monkeypatch.setattr(optim, "sgd", cuda_kernels)
        weights, gradients, velocities = ({"fc.weight": torch.ones(4).mul(k)} for k in (0.0, -1.0, 0.0))
        update(weights, gradients, velocities, Rates(learning_rate, learning_rate), Rule())
        return abs(float(weights["fc.weight"][0]) / learning_rate - 1)

    assert error(on_cuda=True) <= 1e-7
    if learning_rate < 1e-2:
        assert error(on_cuda=False) > 1e-3  # as it was


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # raised inside torch's compiler
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("rule", [Rule(0.0), Rule(0.9), Rule(0.9, trust_coefficient=0.01)])
def test_rates_in_memory_are_the_rates(rule: Rule, is_compiled: bool) -> None:
    """One set of tensors, filled for each step, as a CUDA graph reads them."""
    schedule = [Rates(0.1 / (1 + step), 0.2, {"conv1": 0.05 * step}) for step in range(3)]
    weights, velocities, expected, memory = tensors(0), zeros(), tensors(0), zeros()
    held = schedule[0].on(torch.device("cpu"), torch.float64)
    for step, rates in enumerate(schedule):
        held.fill(rates)
        update(weights, tensors(step + 1), velocities, held, rule, is_compiled)
        update(expected, tensors(step + 1), memory, rates, rule)
        for name, wanted in expected.items():
            assert_close(weights[name], wanted.numpy())


def trusted(layer: list[tuple[Array, Array]], trust: float, decay: float) -> float:
    """Return LARS's factor for the (weight, gradient) parts of one layer, number by number."""
    of_weight, of_gradient = (
        math.sqrt(math.fsum(x * x for part in layer for x in part[index].ravel().tolist())) for index in (0, 1)
    )
    return trust * of_weight / (of_gradient + decay * of_weight) if of_weight and of_gradient else 1.0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("order", [sorted, reversed])
def test_lars_gives_each_half_layer_its_rate(momentum: float, order: Callable[[Iterable[str]], Iterable[str]]) -> None:
    rule = Rule(momentum, 0.05, trust_coefficient=0.2)
    weights, velocities = {name: tensors(0)[name] for name in order(list(SHAPES))}, zeros()
    wanted = {name: values.numpy().copy() for name, values in weights.items()}
    memory = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step, learning_rate in enumerate(RATES):
        gradients = {name: values.numpy() for name, values in tensors(step + 1, 1 + step).items()}
        update(
            weights,
            {name: torch.from_numpy(g) for name, g in gradients.items()},
            velocities,
            Rates(learning_rate, 2 * learning_rate),
            rule,
        )
        for names in (["conv1.weight"], ["fc8.own.weight", "fc8.other.weight"]):
            factor = trusted([(wanted[name], gradients[name]) for name in names], 0.2, 0.05)
            for name in names:
                literal(wanted[name], gradients[name], memory[name], learning_rate * factor, momentum, 0.05)
        for name in ("conv1.bias", "fc8.own.bias"):
            literal(wanted[name], gradients[name], memory[name], learning_rate * 2.0, momentum, 0.0)
        for name in SHAPES:
            assert_close(weights[name], wanted[name])


@given(scale=st.floats(1e-6, 1e6))
def test_lars_does_not_feel_the_scale_of_a_layers_gradient(scale: float) -> None:
    ours, theirs, kernel = tensors(0), tensors(0), "conv1.weight"
    rule = Rule(weight_decay=0.0, trust_coefficient=0.01)
    update(ours, tensors(1), zeros(), EQUAL, rule)
    update(theirs, tensors(1, scale), zeros(), EQUAL, rule)
    assert_close(ours[kernel], theirs[kernel].numpy())
    moved = float((ours[kernel] - tensors(0)[kernel]).norm() / tensors(0)[kernel].norm())
    assert moved == pytest.approx(0.1 * 0.01, rel=1e-9)


@pytest.mark.parametrize("nothing", ["weights", "gradients"])
def test_lars_leaves_the_rate_alone_where_a_norm_is_zero(nothing: str) -> None:
    results = []
    for rule in (Rule(trust_coefficient=0.01), Rule()):
        weights, gradients, velocities = tensors(0), tensors(1), zeros()
        for values in {"weights": weights, "gradients": gradients}[nothing].values():
            values.zero_()
        update(weights, gradients, velocities, EQUAL, rule)
        results.append(weights)
    for name, values in results[0].items():
        assert_close(values, results[1][name].numpy())


def test_lars_adds_up_large_layers_in_float32() -> None:
    """Nine million squares added up in float32 would be 0.03 % off, the gradient's one would not."""
    weight = torch.randn(2048, 4608, generator=torch.Generator().manual_seed(0))
    gradient = torch.zeros_like(weight)
    gradient[0, 0] = 1.0
    before, norm = float(weight[0, 0]), float(weight.double().norm())
    velocities = {"fc6.weight": torch.zeros_like(weight)}
    update({"fc6.weight": weight}, {"fc6.weight": gradient}, velocities, Rates(1.0, 1.0), Rule(0, 0, 0.5))
    assert float(weight[0, 0]) - before == pytest.approx(-0.5 * norm, rel=1e-6)


def test_lars_does_not_wait_for_the_device() -> None:
    """Tensors on the meta device have no numbers: asking the host for one raises."""
    weights, gradients, velocities = (
        {"fc6.weight": torch.empty(3, 2, device="meta"), "fc6.other.weight": torch.empty(3, 4, device="meta")}
        for _ in range(3)
    )
    update(weights, gradients, velocities, EQUAL, Rule(trust_coefficient=0.001))


def test_it_is_torchs_sgd_until_the_rate_drops() -> None:
    ours, velocities = {"w.weight": torch.ones(3, dtype=torch.float64)}, {"w.weight": torch.zeros(3).double()}
    theirs = torch.ones(3, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.0005)
    apart = []
    for step, learning_rate in enumerate(RATES):
        theirs.grad = torch.full((3,), 1.0 + step, dtype=torch.float64)
        sgd.param_groups[0]["lr"] = learning_rate
        before = sgd.state[theirs]["momentum_buffer"].clone() if step else torch.zeros(3)
        sgd.step()
        update(ours, {"w.weight": theirs.grad}, velocities, Rates(learning_rate, learning_rate), Rule())
        apart.append(float((ours["w.weight"] - theirs.detach()).abs().max()))
        if step == 3:  # SGD rescales the step that is under way, the paper's rule does not
            assert apart[-1] == pytest.approx(0.9 * (0.1 - 0.01) * float(before[0]), rel=1e-9)
    assert max(apart[:3]) <= 1e-14
    assert min(apart[3:]) > 0.1


@pytest.mark.parametrize("rule", [Rule(), Rule(trust_coefficient=0.001)])
def test_the_update_is_in_place_and_leaves_gradients_alone(rule: Rule) -> None:
    weights, gradients, velocities = tensors(0), tensors(1), zeros()
    held, before = dict(weights), {name: values.clone() for name, values in gradients.items()}
    update(weights, gradients, velocities, EQUAL, rule)
    assert all(weights[name] is values for name, values in held.items())
    assert all(gradients[name].equal(values) for name, values in before.items())


@pytest.mark.parametrize("rule", [Rule(), Rule(trust_coefficient=0.001)])
def test_only_biases_or_only_weights_can_be_updated(rule: Rule) -> None:
    for kind in ("weight", "bias"):
        weights, gradients, velocities = (
            {name: values for name, values in every.items() if name.endswith(kind)}
            for every in (tensors(0), tensors(1), zeros())
        )
        update(weights, gradients, velocities, EQUAL, rule)
        assert all(values.abs().min() > 0 for values in velocities.values())


def test_without_decay_weights_move_by_their_gradients_alone() -> None:
    weights, velocities = {"w.weight": torch.full((1,), 100.0)}, {"w.weight": torch.zeros(1)}
    update(weights, {"w.weight": torch.zeros(1)}, velocities, EQUAL, Rule(weight_decay=0.0))
    assert weights["w.weight"].item() == 100
    update(weights, {"w.weight": torch.zeros(1)}, velocities, EQUAL, Rule(weight_decay=0.5))
    assert weights["w.weight"].item() == 95
