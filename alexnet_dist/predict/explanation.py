"""What a net makes of one image, for the page: classes, ten views, excited kernels, what crosses at the joins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.figures.activations import strip
from alexnet_dist.figures.held_out import activations_at_joins
from alexnet_dist.figures.inline import bytes_of, data_url
from alexnet_dist.figures.kernels import scaled
from alexnet_dist.figures.mosaic import enlarged, mosaic
from alexnet_dist.nn.model import ACTIVATIONS, Tower
from alexnet_dist.runs.inference import centre_input
from alexnet_dist.runs.prediction import Guess, best_guesses
from alexnet_dist.runs.trained import TrainedNet

KERNELS = 8  # shown of each tower
MAPS, COLUMNS = 16, 8  # of a tower at a join, shown, and in a row
VIEW_NAMES = ("top left", "top right", "bottom left", "bottom right", "centre")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One of the ten views: its name, what it shows as a PNG, and its most probable class."""

    name: str
    picture: str
    guess: Guess


@dataclass(frozen=True)
class Kernel:
    """A kernel of the first layer: its index in the tower, its mean activation over the image, and it as a PNG."""

    index: int
    activation: float
    picture: str


@dataclass(frozen=True)
class JoinPanel:
    """What the towers send at one join: the layer that reads it, the bytes of one tower in float32, a PNG of each."""

    into: str
    size_bytes: int
    pictures: list[str]


@dataclass(frozen=True)
class Explanation:
    """All that the page shows of an image; pictures are data URLs. ten_views: the classes by the mean of the views."""

    classes: list[Guess]
    ten_views: list[Guess]
    views: list[View]
    kernels: list[list[Kernel]]
    joins: list[JoinPanel]


def explain(net: TrainedNet, square: Tensor) -> Explanation:
    """Return what a net makes of an image at packed size, uint8 (size, size, 3)."""
    images = square[None]
    crop = net.loaded.config.data.crop
    patches = augment.ten_views(images, crop)[:, 0]
    mean = augment.centre_crop(net.loaded.mean, crop)
    with torch.no_grad():
        inputs = augment.network_input(patches, mean, torch.float32).to(net.device)
        probabilities = net.model(inputs).double().softmax(1).cpu()
        centre = centre_input(net.loaded, images, net.device)
        alone = net.model(centre).double().softmax(1)[0].cpu()
        return Explanation(
            best_guesses(alone, net.classes),
            best_guesses(probabilities.mean(0), net.classes),
            [
                View(_view_name(number), data_url(patches[number].numpy()), best_guesses(row, net.classes)[0])
                for number, row in enumerate(probabilities)
            ],
            [_excited(net, tower, centre) for tower in net.model.towers if isinstance(tower, Tower)],
            _joins(net, square),
        )


def _view_name(number: int) -> str:
    name = VIEW_NAMES[number % len(VIEW_NAMES)]
    return name if number < len(VIEW_NAMES) else f"{name}, mirrored"


def _excited(net: TrainedNet, tower: Tower, image: Tensor) -> list[Kernel]:
    """Return the kernels of a tower's first layer with the largest mean activation, largest first."""
    geometry = net.model.net
    first = next(iter(geometry.layers))
    module = tower.get_submodule(first)
    maps = module(image * geometry.input_scale)
    if geometry.layers[first].activate == "first":
        maps = ACTIVATIONS[geometry.activation](maps)
    weight = module.weight
    assert isinstance(weight, Tensor)
    pictures = enlarged(scaled(weight.double().cpu().numpy()))
    strength = maps[0].double().cpu().mean((1, 2))
    best = strength.argsort(descending=True, stable=True)[:KERNELS].tolist()
    return [Kernel(index, float(strength[index]), data_url(bytes_of(pictures[index]))) for index in best]


def _joins(net: TrainedNet, square: Tensor) -> list[JoinPanel]:
    """Return what crosses at each join; the towers of a join share one scale."""
    panels = []
    for into, maps in activations_at_joins(net.loaded, square.numpy(), net.device):
        largest = max(max(float(each.max()) for each in maps), 1e-12)
        panels.append(JoinPanel(into, 4 * maps[0].size, [data_url(bytes_of(_panel(each) / largest)) for each in maps]))
    return panels


def _panel(sent: Floats) -> Floats:
    """Return what one tower sends as a grey picture: its maps of largest mean, or all its units."""
    if sent.ndim == 1:
        cells: Floats = enlarged(np.nan_to_num(strip(sent))[None])[0]
        return cells
    order = np.argsort(-sent.mean((1, 2)), kind="stable")[:MAPS]
    return mosaic(enlarged(sent[order]), COLUMNS, 0.0)
