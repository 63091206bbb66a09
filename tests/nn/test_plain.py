"""The plain net beside the model of linked towers, for every kind of layer that a geometry may have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from alexnet_dist.nn.geometry import Geometry, Norm
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.nn.plain import Classifier, PlainAlexNet, plain_layers
from alexnet_dist.runs.weights import named_weights
from support.nets import SMALL


def with_layer(name: str, **changes: object) -> Geometry:
    return replace(SMALL, layers={**SMALL.layers, name: replace(SMALL.layers[name], **changes)})  # type: ignore[arg-type]


NETS: dict[str, Geometry] = {
    "small": SMALL,
    "tanh": replace(SMALL, activation="tanh"),
    "input scale": replace(SMALL, input_scale=0.02),
    "another power": replace(SMALL, norm=Norm(size=3, alpha=0.1, beta=0.6, k=1.5)),
    "norm before the activation": with_layer("conv1", activate="last"),
    "linear layer": with_layer("fc7", activate="never"),
    "norm over pixels": replace(with_layer("conv2", spatial_norm=True), spatial_norm=Norm(3, 0.05, 0.75, 1.0)),
    "norm over more pixels than there are": replace(
        with_layer("conv5", spatial_norm=True), spatial_norm=Norm(31, 0.01, 0.75, 1.0)
    ),
    "normalised units": with_layer("fc6", norm=True),
    "average pool": with_layer("conv5", pooling="average"),
    "unlinked convolution": with_layer("conv3", reads="own"),
    "unlinked first dense layer": with_layer("fc6", reads="own"),
    "unlinked dense layers": replace(
        SMALL,
        layers={
            name: replace(layer, reads="own") if name in ("fc7", "fc8") else layer
            for name, layer in SMALL.layers.items()
        },
    ),
    "one tower": replace(
        SMALL, towers=1, layers={name: replace(layer, reads="own") for name, layer in SMALL.layers.items()}
    ),
}


def plain(model: AlexNet) -> PlainAlexNet:
    side, classes = model.net.side, model.net.classes
    mean = torch.full((3, side, side), 100.0, dtype=torch.float64)
    net = PlainAlexNet(plain_layers(model.net), mean, [str(number) for number in range(classes)], side + 4)
    net.double().load_state_dict(named_weights(model))
    return net.eval()


def images(net: Geometry) -> Tensor:
    return 60 * torch.randn(3, 3, net.side, net.side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETS)
def test_the_plain_net_has_the_logits_of_the_towers(name: str) -> None:
    model = AlexNet(NETS[name], seed=2, dtype=torch.float64).eval()
    net, batch = plain(model), images(NETS[name])
    with torch.no_grad():
        found, expected = net(batch), model(batch)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_without_its_groups_or_its_sum_it_is_another_net() -> None:
    """The comparison above can fail: torch's own norm over all maps is not the towers'."""
    model = AlexNet(SMALL, seed=2, dtype=torch.float64).eval()
    net, batch = plain(model), images(SMALL)
    expected = model(batch)
    net.conv1_norm = nn.LocalResponseNorm(SMALL.norm.size, SMALL.norm.alpha * SMALL.norm.size, 0.75, 2.0)
    assert (net(batch) - expected).abs().max() > 1e-6 * expected.abs().max()


def test_a_state_has_the_names_of_an_exported_file() -> None:
    model = AlexNet(SMALL, seed=2)
    assert {name: value.shape for name, value in plain(model).state_dict().items()} == {
        name: value.shape for name, value in named_weights(model).items()
    }


def test_a_classifier_subtracts_the_mean() -> None:
    net = plain(AlexNet(SMALL, seed=2))
    pixels = torch.rand(2, 3, SMALL.side, SMALL.side, dtype=torch.float64) * 255
    logits, probabilities = Classifier(net)(pixels)
    assert torch.equal(logits, net(pixels - 100))
    assert torch.allclose(probabilities.sum(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("layer", list(SMALL.layers))
def test_features_are_the_outputs_of_the_plain_layers(layer: str) -> None:
    """After dropout's layers the model multiplies by what the plain net has in the next layer's weights."""
    model = AlexNet(SMALL, seed=2, dtype=torch.float64).eval()
    net, batch = plain(model), images(SMALL)
    names = [name for name, _ in net.named_children()]
    end = max(number for number, name in enumerate(names) if name.partition("_")[0] == layer)
    expected = nn.Sequential(*list(net)[: end + 1])(batch).flatten(1) * (1 - SMALL.layers[layer].dropout)
    found = model.features(batch, layer)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_features_are_those_of_the_last_hidden_layer_by_default() -> None:
    model = AlexNet(SMALL, seed=2).eval()
    batch = images(SMALL).float()
    assert torch.equal(model.features(batch), model.features(batch, "fc7"))
    with pytest.raises(ValueError, match=r"fc9: no layer of this net; expected one of conv1, conv2, .*fc8"):
        model.features(batch, "fc9")
