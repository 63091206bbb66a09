"""The named recipes whose claims are audited, and nets that are made from theirs."""

from __future__ import annotations

from collections.abc import Sequence
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
TRAINING_IMAGES = 1_281_167  # of ILSVRC-2012


def recipe(name: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a recipe, a file of configs/."""
    return config.load([FOLDER / f"{name}.yaml"], overrides).config


def net(name: str) -> Geometry:
    """Return the net of a recipe."""
    return config.geometry(recipe(name))


def small(whole: Geometry, init_std: Literal["he"] | None = None) -> Geometry:
    """Return a net with a sixteenth of the channels, 10 classes and 67 pixels, and all else of a recipe's net."""
    last = next(reversed(whole.layers))
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
    """Statistics of a layer's initial weights, over both towers.

    within: share of them within one standard deviation of 0.01 or 0.03. biases: their distinct values.
    """

    count: int
    mean: float
    std: float
    within: float
    biases: tuple[float, ...]


@cache
def drawn(name: str) -> tuple[AlexNet, dict[str, Drawn]]:
    """Draw a recipe's net of full size; return it without its numbers, on the meta device, and their statistics."""
    geometry = net(name)
    model = AlexNet(geometry).requires_grad_(False)
    statistics: dict[str, Drawn] = {}
    for layer in geometry.layers:
        parts: list[torch.Tensor] = []
        biases: set[float] = set()
        for key, values in model.named_parameters():
            if key.split(".")[2] == layer:
                if key.endswith(".bias"):
                    biases |= set(values.unique().tolist())
                else:
                    parts.append(values.flatten())
        count = sum(part.numel() for part in parts)
        mean = sum(part.sum(dtype=torch.float64).item() for part in parts) / count
        square = sum(part.square().sum(dtype=torch.float64).item() for part in parts) / count
        std = (square - mean**2) ** 0.5
        within = sum((part.abs() < std).sum().item() for part in parts) / count
        statistics[layer] = Drawn(count, mean, std, within, tuple(sorted(biases)))
    return model.to("meta"), statistics
