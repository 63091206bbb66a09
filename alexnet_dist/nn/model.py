"""The only definition of AlexNet: `Tower`, one of the two; `AlexNet`, all of them in one process.

The other wiring, one process a tower, is `distributed.tower_parallel.LinkedTower`. They differ only in how stages are
connected. This module does not depend on processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist import rng
from alexnet_dist.monitoring.timeline import region
from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import Geometry, Layer, Shape, channel_span
from alexnet_dist.nn.layers import (
    Convolution,
    Cross,
    Dense,
    DropoutKey,
    average_pool,
    dropout,
    local_response_norm,
    max_pool,
    spatial_norm,
)

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}
POOLINGS: Mapping[str, Callable[[Tensor, int, int], Tensor]] = {"max": max_pool, "average": average_pool}


class Tower(nn.Module):
    """One tower: half of the kernels and units of every layer, and the stages they form.

    Parameters are named conv1.weight, conv1.bias, ...; a cross layer has own.weight, own.bias and other.weight.
    """

    def __init__(
        self,
        index: int,
        net: Geometry,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        compile_norm: bool = False,
    ) -> None:
        """Build tower 0 or 1 and draw its initial weights from counter-based streams (§5)."""
        super().__init__()
        self.index, self.compile_norm = index, compile_norm
        self.net = net
        self.stage_names = geometry.stages(net)
        for shape in geometry.shapes(net):
            self.add_module(shape.name, _module(index, net, shape))
        with torch.no_grad():
            for shape in geometry.shapes(net):
                _draw(self.get_submodule(shape.name), f"tower{index}.{shape.name}", net.layers[shape.name], shape, seed)
        self.to(dtype)

    def stage(
        self,
        stage: int,
        maps: Tensor,
        other_maps: Callable[[], Tensor] | None,
        dropout_key: DropoutKey | None,
        last: str | None = None,
    ) -> Tensor:
        """Compute one stage from this tower's maps; stages after the first call `other_maps` for the other tower's.

        Maps are (B, 3, 224, 224) -> (B, 128, 13, 13) -> (B, 128, 6, 6) -> (B, 2048) -> (B, 2048) -> (B, 500) for the
        paper's net. last: the layer after which, with all that follows it, to stop; None: at the end of the stage.
        Raises ValueError when a net with dropout trains without a dropout key.
        """
        if stage == 0 and self.net.input_scale != 1:
            maps = maps * self.net.input_scale
        with region(f"stage {stage}: {'-'.join(self.stage_names[stage])}"):
            for name in self.stage_names[stage]:
                layer, module = self.net.layers[name], self.get_submodule(name)
                maps = module(maps, other_maps) if layer.reads == "both" else module(maps)
                if name != self.stage_names[-1][-1]:
                    maps = self._after(name, layer, maps, dropout_key)
                if name == last:
                    break
        return maps

    def _after(self, name: str, layer: Layer, maps: Tensor, dropout_key: DropoutKey | None) -> Tensor:
        """Apply activation, norms and pool in the layer's order, then dropout, to the output of a layer."""
        activate = ACTIVATIONS[self.net.activation]
        if layer.activate == "first":
            maps = activate(maps)
        if layer.norm:
            maps = local_response_norm(maps, self.net.norm, self.compile_norm)
        if layer.spatial_norm:
            maps = spatial_norm(maps, self.net.spatial_norm)
        if layer.pool:
            maps = POOLINGS[layer.pooling](maps, *layer.pool)
        if layer.activate == "last":
            maps = activate(maps)
        if layer.dropout and not self.training:
            return maps * (1 - layer.dropout)
        if layer.dropout:
            if dropout_key is None:
                raise ValueError(f"{name} has dropout: pass a dropout key (seed, step, slots) to train")
            assert layer.channels is not None
            first_unit, _ = channel_span(layer.channels, self.index, self.net.towers)
            return dropout(maps, layer.dropout, name, first_unit, dropout_key)
        return maps


class AlexNet(nn.Module):
    """All towers in one process: for one device, and as the oracle of linked towers. Default: the paper's net."""

    def __init__(
        self,
        net: Geometry | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        compile_norm: bool = False,
    ) -> None:
        """Build the towers, with the same initial weights as linked towers of this seed."""
        super().__init__()
        self.net = net or Geometry()
        indices = range(self.net.towers)
        self.towers = nn.ModuleList([Tower(index, self.net, seed, dtype, compile_norm) for index in indices])
        # Called with the gradient of each tower's stage-0 output once it is complete; set by data_parallel.Reducer.
        self.on_boundary: Callable[[Tensor], None] | None = None

    def forward(self, images: Tensor, dropout_key: DropoutKey | None = None) -> Tensor:
        """Map mean-subtracted images (B, 3, 224, 224) on the 0-255 scale to logits (B, classes)."""
        return torch.cat(self._run(images, dropout_key, len(geometry.stages(self.net))), 1)

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Map images to the output of a layer with all that follows it, such as norm and pool; tower 0 first (§6.1).

        layer: by default the last hidden one, (B, 4096) for the paper's net. Maps are flattened in (channel, y, x)
        order. Raises ValueError if the net has no such layer.
        """
        if layer is None:
            *_, layer, _ = self.net.layers
        if layer not in self.net.layers:
            raise ValueError(f"{layer}: no layer of this net; expected one of {', '.join(self.net.layers)}")
        stages = next(number for number, names in enumerate(geometry.stages(self.net), 1) if layer in names)
        return torch.cat(self._run(images, None, stages, layer), 1).flatten(1)

    def join_maps(self, images: Tensor) -> list[list[Tensor]]:
        """Map images to what each tower sends at each join, in order: one list a join, one tensor (B, ...) a tower.

        For the paper's net (B, 128, 13, 13), (B, 128, 6, 6), (B, 2048) and (B, 2048). The logits are not included.
        """
        # Earlier stages are computed again for each join: this is for a few images, such as those of a picture.
        return [self._run(images, None, stages) for stages in range(1, len(geometry.stages(self.net)))]

    def _run(
        self, images: Tensor, dropout_key: DropoutKey | None, stages: int, last: str | None = None
    ) -> list[Tensor]:
        maps = [images] * self.net.towers
        for stage in range(stages):
            before = maps
            maps = [
                tower.stage(stage, before[index], partial(before.__getitem__, 1 - index), dropout_key, last)  # type: ignore[operator]
                for index, tower in enumerate(self.towers)
            ]
            if stage == 0 and self.on_boundary is not None:
                for tower_maps in maps:
                    hook_gradient(tower_maps, self.on_boundary)
        return maps


def hook_gradient(maps: Tensor, on_gradient: Callable[[Tensor], None]) -> None:
    """Call a function with the gradient of `maps` once it is complete; do nothing if no gradients are recorded."""
    if maps.requires_grad:
        maps.register_hook(on_gradient)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _module(index: int, net: Geometry, shape: Shape) -> nn.Module:
    layer, (first, end) = net.layers[shape.name], channel_span(shape.channels, index, net.towers)
    parts: list[nn.Module] = []
    for bias in (True, False) if layer.reads == "both" else (True,):
        fan_in = shape.fan_in // 2 if layer.reads == "both" else shape.fan_in
        if layer.kernel:
            inputs = fan_in // layer.kernel**2
            parts.append(
                Convolution(inputs, end - first, layer.kernel, layer.stride, layer.padding, shape.overhang, bias)
            )
        else:
            parts.append(Dense(fan_in, end - first, bias))
    return Cross(*parts) if layer.reads == "both" else parts[0]


def _draw(module: nn.Module, prefix: str, layer: Layer, shape: Shape, seed: int) -> None:
    """Draw each weight from its own stream, keyed by its full name, so that the wiring does not change it."""
    std = (2 / shape.fan_in) ** 0.5 if layer.init_std == "he" else layer.init_std
    for name, parameter in module.named_parameters(prefix):
        if name.endswith(".bias"):
            parameter.fill_(layer.init_bias)
        else:
            generator = torch.Generator().manual_seed(rng.seed64(seed, "init", name) >> 1)
            parameter.normal_(0.0, std, generator=generator)


def merge_cross_weights(index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a tower's tensors with the two parts of each cross layer concatenated, inputs of tower 0 first.

    tensors: weights or velocities by parameter name. The paper's conv3.own.weight and conv3.other.weight
    (192, 128, 3, 3) become conv3.weight (192, 256, 3, 3).
    """
    merged: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".own.weight"):
            parts = [tensor, tensors[name.replace(".own.", ".other.")]]
            merged[name.replace(".own.", ".")] = torch.cat(parts if index == 0 else parts[::-1], 1)
        elif not name.endswith(".other.weight"):
            merged[name.replace(".own.", ".")] = tensor
    return merged


def split_cross_weights(index: int, net: Geometry, merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `merge_cross_weights`."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in merged.items():
        layer, kind = name.split(".")
        if net.layers[layer].reads == "own":
            tensors[name] = tensor
        elif kind == "bias":
            tensors[f"{layer}.own.bias"] = tensor
        else:
            halves = tensor.chunk(2, 1)
            tensors[f"{layer}.own.weight"], tensors[f"{layer}.other.weight"] = halves if index == 0 else halves[::-1]
    return tensors
