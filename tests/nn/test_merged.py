"""Layers of both towers as one operation: the same function, from the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from alexnet_dist.nn import merged
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import AlexNet
from support.nets import SMALL

SLOTS = torch.arange(4)
# Fully connected layers that read one tower, as in `no_links`; and average pools, tanh and an input scale.
OWN = replace(
    SMALL,
    layers={name: replace(layer, reads="own") for name, layer in SMALL.layers.items()} | {"fc8": SMALL.layers["fc8"]},
    activation="tanh",
    input_scale=0.02,
)


def both_ways(net: Geometry, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return the logits and gradients of the towers one by one, and of merged ones."""
    images = 30 * torch.randn(4, 3, net.side, net.side, generator=torch.Generator().manual_seed(0), dtype=dtype)
    results = []
    for is_merged in (False, True):
        model = AlexNet(net, 1, dtype)
        model.merged = is_merged
        logits = model(images, DropoutKey(2, 3, SLOTS))
        logits.square().sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        results.append((logits.detach(), gradients))
    return results


@pytest.mark.parametrize("net", [SMALL, OWN])
def test_merged_towers_are_the_towers(net: Geometry) -> None:
    (logits, gradients), (found, found_gradients) = both_ways(net)
    assert (found - logits).abs().max() <= 1e-12 * logits.abs().max()
    assert gradients.keys() == found_gradients.keys()
    for name, gradient in gradients.items():
        assert (found_gradients[name] - gradient).abs().max() <= 1e-12 * gradient.abs().max(), name


def test_a_layer_is_one_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def recorded(name: str, own: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
        def call(*given: Any) -> list[Tensor]:
            called.append(name)
            return own(*given)

        return call

    for name in ("convolve", "cross"):
        monkeypatch.setattr(merged, name, recorded(name, getattr(merged, name)))
    both_ways(SMALL)
    assert called == ["convolve", "cross", "cross", "cross", "cross"]  # conv1; conv3, fc6 to fc8


def test_features_and_joins_are_the_same() -> None:
    images = 30 * torch.randn(2, 3, SMALL.side, SMALL.side, dtype=torch.float64)
    model = AlexNet(SMALL, 1, torch.float64).eval()
    own = [model.features(images, layer) for layer in SMALL.layers]
    model.merged = True
    for found, expected in zip([model.features(images, layer) for layer in SMALL.layers], own, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
