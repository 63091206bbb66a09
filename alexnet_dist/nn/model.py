"""The only definition of AlexNet: `Tower`, one of the two; `AlexNet`, all of them in one process.

The other wiring, one process a tower, is `distributed.tower_parallel.LinkedTower`. They differ only in how stages are
connected, and in that both towers of one process may compute a layer together (nn/merged.py). This module does not
depend on processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.monitoring.timeline import region
from alexnet_dist.nn import geometry, merged
from alexnet_dist.nn.convolution import Convolution
from alexnet_dist.nn.geometry import Geometry, Layer, Shape, channel_span
from alexnet_dist.nn.layers import (
    Cross,
    Dense,
    DropoutKeys,
    average_pool,
    dropout,
    local_response_norm,
    max_pool,
    spatial_norm,
)
from alexnet_dist.system import rng

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
        self, stage: int, maps: Tensor, other_maps: Callable[[], Tensor] | None, dropout_keys: DropoutKeys | None
    ) -> Tensor:
        """Compute one stage from this tower's maps; stages after the first call `other_maps` for the other tower's.

        Maps are (B, 3, 224, 224) -> (B, 128, 13, 13) -> (B, 128, 6, 6) -> (B, 2048) -> (B, 2048) -> (B, 500) for the
        paper's net. Raises ValueError when a net with dropout trains without dropout keys.
        """

        def multiply(name: str, maps: Sequence[Tensor]) -> list[Tensor]:
            module = self.get_submodule(name)
            return [module(maps[0], other_maps) if isinstance(module, Cross) else module(maps[0])]

        return run_stage([self], stage, [maps], multiply, dropout_keys)[0]

    def after(self, name: str, maps: Tensor, dropout_keys: DropoutKeys | None) -> Tensor:
        """Apply activation, norms and pool in the layer's order, then dropout, to the output of a layer."""
        layer, activate = self.net.layers[name], ACTIVATIONS[self.net.activation]
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
            if dropout_keys is None:
                raise ValueError(f"{name} has dropout: pass a dropout key (seed, step, slots) to train")
            assert layer.channels is not None
            first_unit, _ = channel_span(layer.channels, self.index, self.net.towers)
            return dropout(maps, layer.dropout, name, first_unit, dropout_keys, self.compile_norm and maps.is_cuda)
        return maps


def run_stage(
    towers: Sequence[Tower],
    stage: int,
    maps: Sequence[Tensor],
    multiply: Callable[[str, Sequence[Tensor]], list[Tensor]],
    dropout_keys: DropoutKeys | None,
    last: str | None = None,
) -> list[Tensor]:
    """Compute one stage in one tower or in both, from a tensor for each of them to a tensor for each.

    multiply: returns the outputs of a layer's convolutions or matrix products. last: the layer after which, with all
    that follows it, to stop; None: at the end of the stage.
    """
    names, outputs = towers[0].stage_names, list(maps)
    with region(f"stage {stage}: {'-'.join(names[stage])}"):
        for name in names[stage]:
            outputs = multiply(name, outputs)
            if name != names[-1][-1]:
                outputs = [tower.after(name, each, dropout_keys) for tower, each in zip(towers, outputs, strict=True)]
            if name == last:
                break
    return outputs


class AlexNet(nn.Module):
    """All towers in one process: for one device, and as the oracle of linked towers. Default: the paper's net.

    merged: whether a layer of both towers is one operation (nn/merged.py); None: on CUDA, where that is faster.
    """

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
        # Called once the gradients of all towers' stage-0 outputs are complete; set by data_parallel.Reducer.
        self.on_boundary: Callable[[], None] | None = None
        self.merged: bool | None = None

    def forward(self, images: Tensor, dropout_keys: DropoutKeys | None = None) -> Tensor:
        """Map mean-subtracted images (B, 3, 224, 224) on the 0-255 scale to logits (B, classes)."""
        return torch.cat(self._run(images, dropout_keys, len(geometry.stages(self.net))), 1)

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
        self, images: Tensor, dropout_keys: DropoutKeys | None, stages: int, last: str | None = None
    ) -> list[Tensor]:
        towers = cast("list[Tower]", list(self.towers))
        is_merged = self.merged if self.merged is not None else images.is_cuda
        multiply = partial(_merged if is_merged and len(towers) == 2 else _one_by_one, towers)
        maps = [scaled(images, self.net)] * len(towers)
        for stage in range(stages):
            maps = run_stage(towers, stage, maps, multiply, dropout_keys, last)
            if stage == 0 and self.on_boundary is not None:
                maps = boundary(maps, self.on_boundary)
        return maps


def scaled(images: Tensor, net: Geometry) -> Tensor:
    """Return images on the scale that a net's first layer reads."""
    return images if net.input_scale == 1 else images * net.input_scale


def _one_by_one(towers: Sequence[Tower], name: str, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a layer, computed tower by tower."""
    modules = [tower.get_submodule(name) for tower in towers]
    return [
        module(own, partial(maps.__getitem__, 1 - index)) if isinstance(module, Cross) else module(own)
        for index, (module, own) in enumerate(zip(modules, maps, strict=True))
    ]


def _merged(towers: Sequence[Tower], name: str, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a layer, computed by one operation if both towers read the same."""
    modules = [tower.get_submodule(name) for tower in towers]
    if all(isinstance(module, Cross) for module in modules):
        return merged.cross(cast("list[Cross]", modules), maps)
    if maps[0] is maps[1] and all(isinstance(module, Convolution) for module in modules):
        return merged.convolve(cast("list[Convolution]", modules), maps[0])
    return _one_by_one(towers, name, maps)


def boundary(maps: Sequence[Tensor], on_complete: Callable[[], None]) -> list[Tensor]:
    """Return the maps of one tower or of both; call a function once the gradients of all of them are complete.

    Backward goes no further before that. Without this one place for both towers, autograd would finish all of tower 1
    before it begins with tower 0. Nothing is called if no gradients are recorded.
    """
    return list(_Boundary.apply(on_complete, *maps))  # type: ignore[no-untyped-call]


class _Boundary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, on_complete: Callable[[], None], *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.on_complete = on_complete
        return tuple(each.view_as(each) for each in maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.on_complete()
        return (None, *gradients)


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
