"""Tensors of a net by name: into towers from a checkpoint, and out of a model as one device's net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from alexnet_dist.errors import UserError
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights, split_cross_weights


def restore(tower: Tower, tensors: Mapping[str, Tensor], velocities: Mapping[str, Tensor] | None = None) -> None:
    """Copy a checkpoint's weights into a tower, and its velocities into `velocities`, in place."""
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith("velocity.")}
    with torch.no_grad():
        for name, tensor in split_cross_weights(tower.index, tower.net, weights).items():
            tower.get_parameter(name).copy_(tensor)
        if velocities is not None:
            saved = {name.removeprefix("velocity."): tensor for name, tensor in tensors.items() if name not in weights}
            for name, tensor in split_cross_weights(tower.index, tower.net, saved).items():
                velocities[name].copy_(tensor)


def check_tower(tower: Tower, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError unless a file's tensors are the weights and velocities of a tower, by their names and shapes.

    Its hash does not say so: whoever can exchange a file can exchange its manifest.
    """
    weights = merge_cross_weights(tower.index, {name: value.detach() for name, value in tower.named_parameters()})
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    expected = shapes | {f"velocity.{name}": shape for name, shape in shapes.items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{path}: {name} has the shape {found.get(name, 'of no tensor')}, expected"
                f" {expected.get(name, 'no such tensor')}: a file of another tower or net; restore the checkpoint"
            )


def named_weights(model: AlexNet) -> dict[str, Tensor]:
    """Return the weights of a plain net, conv-ReLU-LRN-pool for the paper's, that gives this model's logits.

    conv1.weight (96, 3, 11, 11), conv2.weight (256, 48, 5, 5) with two groups, conv3 (384, 256, 3, 3), ..., fc6
    (4096, 9216) with columns in (channel, y, x) order, fc8.weight (1000, 4096), and .bias; tower 0 first. Where a
    layer is followed by dropout, its keep probability is folded into the next layer's weights, and an input scale
    into the first one's.
    """
    halves = []
    for tower in model.towers:
        assert isinstance(tower, Tower)
        halves.append(
            merge_cross_weights(tower.index, {name: weight.detach() for name, weight in tower.named_parameters()})
        )
    weights = {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
    factor = model.net.input_scale
    for name, layer in model.net.layers.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] * factor
        factor = 1.0 - layer.dropout
    return weights
