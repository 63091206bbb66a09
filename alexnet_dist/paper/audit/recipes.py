"""The named recipes whose claims are audited, and nets that are made from theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.config.named import FOLDER
from alexnet_dist.nn.geometry import Geometry
from alexnet_dist.nn.model import AlexNet

PAPER, SOURCE, HANDS_OFF = "paper", "source2012", "source2013_hands_off"
SAMPLE = 1_000_000
TRAINING_IMAGES = 1_281_167  # of ILSVRC-2012


@cache
def recipe(names: str, *overrides: str) -> Config:
    """Return the configuration of a recipe: files of configs/, whose names are separated by spaces."""
    return config.load([FOLDER / f"{name}.yaml" for name in names.split()], overrides).config


def net(names: str) -> Geometry:
    """Return the net of a recipe."""
    return config.geometry(recipe(names))


def small(whole: Geometry, init_std: Literal["he"] | None = None) -> Geometry:
    """Return a net with a sixteenth of the channels, 10 classes and 67 pixels, and all else of a recipe's net."""
    last = list(whole.layers)[-1]
    layers = {
        name: replace(
            layer,
            channels=None if name == last or layer.channels is None else layer.channels // 16,
            init_std=init_std or layer.init_std,
        )
        for name, layer in whole.layers.items()
    }
    return replace(whole, layers=layers, classes=10, side=67)


@dataclass(frozen=True)
class Drawn:
    """Statistics of a layer's initial weights, of at most a million of each parameter of both towers.

    within: share of them within one standard deviation. biases: their distinct values.
    """

    count: int
    mean: float
    std: float
    within: float
    biases: tuple[float, ...]


@cache
def drawn(name: str) -> tuple[AlexNet, dict[str, Drawn]]:
    """Draw a recipe's net; return it without its numbers, on the meta device, and the statistics of its layers.

    The paper's has full size; others have 512 units in fc6 and fc7, which takes less time.
    """
    geometry = net(name)
    if name != PAPER:
        narrow = {layer: replace(geometry.layers[layer], channels=512) for layer in ("fc6", "fc7")}
        geometry = replace(geometry, layers={**geometry.layers, **narrow})
    model = AlexNet(geometry).requires_grad_(False)
    statistics: dict[str, Drawn] = {}
    for layer in geometry.layers:
        named = {key: values for key, values in model.named_parameters() if key.split(".")[2] == layer}
        biases = {value for key, values in named.items() if key.endswith(".bias") for value in values.tolist()}
        weights = torch.cat([values.flatten()[:SAMPLE] for key, values in named.items() if key.endswith(".weight")])
        std, mean = torch.std_mean(weights.double())
        within = (weights.abs() < std).double().mean()
        statistics[layer] = Drawn(len(weights), mean.item(), std.item(), within.item(), tuple(sorted(biases)))
    return model.to("meta"), statistics
