"""The arithmetic of the net: the paper's formulas, index by index; its gradients; counter-based dropout."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_dist.nn.geometry import Geometry, Layer, Norm
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.system import rng
from support import literal
from support.literal import LiteralLayer
from support.nets import SMALL

# Everything in the paper's net, small enough for loops: overhangs, overlapping pools, odd classes, maps into units.
TINY = Geometry(
    layers={
        "conv1": Layer(channels=12, kernel=4, stride=2, norm=True, pool=(3, 2), init_std=0.3, init_bias=0.1),
        "conv2": Layer(channels=8, kernel=3, padding=1, norm=True, pool=(2, 2), init_std=0.3, init_bias=0.2),
        "conv3": Layer(channels=8, kernel=3, padding=1, reads="both", init_std=0.3, init_bias=0.3),
        "conv4": Layer(channels=6, kernel=3, padding=1, init_std=0.3, init_bias=0.1),
        "conv5": Layer(channels=4, kernel=3, padding=1, pool=(2, 1), init_std=0.3, init_bias=0.1),
        "fc6": Layer(channels=10, reads="both", dropout=0.5, init_std=0.3, init_bias=0.1),
        "fc7": Layer(channels=6, reads="both", dropout=0.5, init_std=0.3, init_bias=0.1),
        "fc8": Layer(reads="both", init_std=0.3),
    },
    classes=5,
    side=15,
    norm=Norm(size=5, alpha=0.1, beta=0.75, k=2.0),
)
TINY_LITERALLY = [
    LiteralLayer("conv1", stride=2, normalised=True, pooled=(3, 2)),
    LiteralLayer("conv2", padding=1, normalised=True, pooled=(2, 2)),
    LiteralLayer("conv3", both=True, padding=1),
    LiteralLayer("conv4", padding=1),
    LiteralLayer("conv5", padding=1, pooled=(2, 1)),
    LiteralLayer("fc6", both=True, dropped=True),
    LiteralLayer("fc7", both=True, dropped=True),
    LiteralLayer("fc8", both=True),
]

# The order of operations in layers-145.cfg: conv1 is normalised, pooled, then made non-linear; cnorm2 follows conv2's.
SOURCE = replace(
    TINY,
    layers={
        **TINY.layers,
        "conv1": replace(TINY.layers["conv1"], activate="last"),
        "conv2": replace(TINY.layers["conv2"], spatial_norm=True),
        "conv5": replace(TINY.layers["conv5"], activate="last"),
    },
    spatial_norm=Norm(size=3, alpha=0.2, beta=0.75, k=1.0),
)
CHANGED: dict[str, dict[str, Any]] = {
    "conv1": {"activated_last": True},
    "conv2": {"spatially": True},
    "conv5": {"activated_last": True},
}
SOURCE_LITERALLY = [replace(layer, **CHANGED.get(layer.name, {})) for layer in TINY_LITERALLY]


def images(net: Geometry, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return 50 * torch.randn(count, 3, net.side, net.side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("activation", "function"), [("relu", lambda a: np.maximum(a, 0.0)), ("tanh", np.tanh)])
def test_the_net_is_the_papers_index_by_index(activation: Literal["relu", "tanh"], function: Any) -> None:
    model = AlexNet(replace(TINY, activation=activation), 2, torch.float64).eval()
    batch = images(TINY, 2) / 50
    parameters = {name.removeprefix("towers."): values.detach().numpy() for name, values in model.named_parameters()}
    expected = literal.forward(TINY_LITERALLY, parameters, batch.numpy(), (2.0, 5, 0.1, 0.75), function)
    result = model(batch).detach().numpy()
    assert result.shape == (2, 5)
    assert np.abs(result - expected).max() <= 1e-10 * np.abs(expected).max()
    assert np.abs(result[0] - result[1]).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("net", [TINY, SOURCE])
def test_gradients_are_difference_quotients(net: Geometry) -> None:
    model = AlexNet(net, 2, torch.float64).train()
    batch, dropout_key = images(TINY, 3) / 50, DropoutKey(1, 2, torch.arange(3))
    weights = list[Tensor](model.parameters())
    pull = images(TINY, 4).flatten()[: 3 * 5].reshape(3, 5)

    def value() -> Tensor:
        total: Tensor = (model(batch, dropout_key) * pull).sum()
        return total

    gradients = torch.autograd.grad(value(), weights)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
        ends = []
        for move in (1e-6, -2e-6):
            with torch.no_grad():
                torch._foreach_add_(weights, direction, alpha=move)
                ends.append(float(value()))
        with torch.no_grad():
            torch._foreach_add_(weights, direction, alpha=1e-6)
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_the_sources_order_of_operations_index_by_index() -> None:
    model, paper = AlexNet(SOURCE, 2, torch.float64).eval(), AlexNet(TINY, 2, torch.float64).eval()
    batch = images(SOURCE, 2) / 50
    parameters = {name.removeprefix("towers."): values.detach().numpy() for name, values in model.named_parameters()}
    constants, spatial = (2.0, 5, 0.1, 0.75), (1.0, 3, 0.2, 0.75)
    expected = literal.forward(
        SOURCE_LITERALLY, parameters, batch.numpy(), constants, lambda a: np.maximum(a, 0.0), spatial
    )
    result = model(batch).detach().numpy()
    assert np.abs(result - expected).max() <= 1e-10 * np.abs(expected).max()
    assert np.abs(result - paper(batch).detach().numpy()).max() > 1e-3 * np.abs(expected).max()


def test_a_linear_layer_and_a_mean_pool() -> None:
    layers = {
        "conv1": Layer(channels=3, kernel=3, activate="never", pool=(3, 2), pooling="average", init_std=0.3),
        "fc2": Layer(channels=4, activate="never", init_std=0.3),
        "fc3": Layer(init_std=0.3),
    }
    net = Geometry(layers, classes=3, side=8, towers=1)
    model, batch = AlexNet(net, 5, torch.float64), images(net, 2)
    weights = {name.removeprefix("towers.0."): value for name, value in model.named_parameters()}
    maps = torch.nn.functional.conv2d(batch, weights["conv1.weight"], weights["conv1.bias"])  # 6 x 6
    spans = [slice(0, 3), slice(2, 5), slice(4, 6)]  # the last window overhangs, and counts the pixels that exist
    pooled = torch.stack([torch.stack([maps[:, :, y, x].mean((2, 3)) for x in spans], 2) for y in spans], 2)
    expected = (pooled.flatten(1) @ weights["fc2.weight"].T) @ weights["fc3.weight"].T
    torch.testing.assert_close(model(batch), expected, rtol=1e-12, atol=1e-9)


def test_training_with_dropout_needs_a_dropout_key() -> None:
    model = AlexNet(SMALL, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"fc6 has dropout: pass a dropout key \(seed, step, slots\) to train"):
        model(images(SMALL, 1))
    model.eval()(images(SMALL, 1))
    layers = {name: replace(layer, dropout=0.0) for name, layer in SMALL.layers.items()}
    AlexNet(replace(SMALL, layers=layers), dtype=torch.float64)(images(SMALL, 1))


def test_dropout_masks_count_units_over_both_towers_and_test_time_halves() -> None:
    model, batch = AlexNet(SMALL, 1, torch.float64), images(SMALL, 4)
    inputs: dict[str, list[Tensor]] = {}
    for name in ("0.fc7.own", "1.fc7.own", "0.fc7.other", "1.fc7.other"):
        seen = inputs.setdefault(name, [])
        model.get_submodule(f"towers.{name}").register_forward_pre_hook(lambda _, args, seen=seen: seen.extend(args))
    model.train()(batch, DropoutKey(8, 3, torch.arange(10, 14)))
    model.eval()(batch)
    keep = rng.keep(rng.key(8, "dropout", 3, "fc6"), torch.arange(10, 14), torch.arange(32), 0.5)
    for tower in (0, 1):
        training, testing = inputs[f"{tower}.fc7.own"]
        assert training.equal(2 * testing * keep[:, 16 * tower : 16 * tower + 16])  # no rescaling; x 0.5 at test time
        assert inputs[f"{1 - tower}.fc7.other"][0].equal(training)
        assert (testing > 0).any()


def test_a_forward_in_micro_batches_is_the_whole_one() -> None:
    model, batch = AlexNet(SMALL, 1, torch.float64), images(SMALL, 5)
    whole = model(batch, DropoutKey(8, 3, torch.arange(5)))
    parts = [model(batch[a:b], DropoutKey(8, 3, torch.arange(a, b))) for a, b in pairwise((0, 2, 5))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(model(batch, DropoutKey(8, 4, torch.arange(5))), whole)


def test_the_input_scale_multiplies_the_image() -> None:
    halved = AlexNet(replace(SMALL, input_scale=0.5), 1, torch.float64).eval()
    batch = images(SMALL, 2)
    assert halved(batch).equal(AlexNet(SMALL, 1, torch.float64).eval()(batch / 2))


@pytest.mark.parametrize("merged", [False, True])
def test_the_boundary_is_called_once_when_both_towers_are_there(merged: bool) -> None:
    """No gradient of a layer below the boundary exists yet, all those above it do."""
    model, seen = AlexNet(SMALL, 1, torch.float64), list[set[str]]()
    model.merged = merged

    def boundary() -> None:
        seen.append({name.split(".", 2)[2] for name, value in model.named_parameters() if value.grad is None})

    model.on_boundary = boundary
    model(images(SMALL, 2), DropoutKey(0, 0, torch.arange(2))).sum().backward()
    assert seen == [{f"conv{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")}]
    with torch.no_grad():
        model.eval()(images(SMALL, 2))
    assert len(seen) == 1
