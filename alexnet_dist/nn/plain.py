"""A trained net in layers of plain torch, for one device: what an exported file describes, and how it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import COLOURS, Geometry, Norm

ACTIVATION_LAYERS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class PlainLayer:
    """One layer over both towers, with all that follows it up to the next one.

    inputs, outputs: channels, or units of a fully connected layer. kernel: side of the square kernels; 0: fully
    connected. padding: zeros on all four sides; overhang: further zeros to the right and below. groups: the number of
    equal parts of the inputs, each of which is read by its own part of the outputs alone.
    activation: None if the layer is linear. activate: "first", before norms and pool, or "last", after them.
    norm: over neighbouring maps, within each of `norm_groups` equal parts of them. spatial_norm: over neighbouring
    pixels. pool: (kernel, stride); the last windows may overhang the maps.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    overhang: int = 0
    groups: int = 1
    activation: Literal["relu", "tanh"] | None = None
    activate: Literal["first", "last"] = "first"
    norm: Norm | None = None
    norm_groups: int = 1
    spatial_norm: Norm | None = None
    pool: tuple[int, int] | None = None
    pooling: Literal["max", "average"] = "max"


def plain_layers(net: Geometry) -> tuple[PlainLayer, ...]:
    """Return the layers of a geometry as one device computes them. Dropout and the input scale are in the weights."""
    result = []
    channels, side, (*_, last) = COLOURS, net.side, net.layers
    for position, shape in enumerate(geometry.shapes(net)):
        layer = net.layers[shape.name]
        result.append(
            PlainLayer(
                name=shape.name,
                inputs=channels if layer.kernel else channels * side * side,
                outputs=shape.channels,
                kernel=layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                overhang=shape.overhang,
                groups=net.towers if position and layer.reads == "own" else 1,
                activation=None if shape.name == last or layer.activate == "never" else net.activation,
                activate="last" if layer.activate == "last" else "first",
                norm=net.norm if layer.norm else None,
                norm_groups=net.towers if layer.norm else 1,
                spatial_norm=net.spatial_norm if layer.spatial_norm else None,
                pool=layer.pool,
                pooling=layer.pooling,
            )
        )
        channels, side = shape.channels, shape.side
    return tuple(result)


class PlainAlexNet(nn.Sequential):
    """The net on one device; its parameters have the names of an exported file: conv1.weight, conv1.bias, ...

    Maps mean-subtracted images (B, 3, crop, crop) on the 0-255 scale to logits (B, classes).
    mean: float32 (3, crop, crop), to be subtracted. classes: a name for each logit. size: of an image's shorter side
    before its centre is cut out, in pixels.
    """

    mean: Tensor

    def __init__(self, layers: Sequence[PlainLayer], mean: Tensor, classes: Sequence[str], size: int) -> None:
        """Build the modules; their weights are torch's random ones until a state is loaded."""
        super().__init__()
        for layer in layers:
            for suffix, module in _modules(layer):
                self.add_module(f"{layer.name}{suffix}", module)
        self.classes, self.size, self.layers = tuple(classes), size, tuple(layers)
        self.register_buffer("mean", mean, persistent=False)


def _modules(layer: PlainLayer) -> Iterator[tuple[str, nn.Module]]:
    """Yield a layer's modules in their order, each with what is appended to the layer's name."""
    if layer.overhang:
        yield "_overhang", nn.ZeroPad2d((0, layer.overhang, 0, layer.overhang))
    if layer.kernel:
        yield "", nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, groups=layer.groups)
    else:
        yield "_flat", nn.Flatten()
        yield "", _dense(layer)
    activation = None if layer.activation is None else ACTIVATION_LAYERS[layer.activation]()
    if activation is not None and layer.activate == "first":
        yield "_activation", activation
    if layer.norm is not None:
        yield "_norm", LocalNorm(layer.norm, layer.norm_groups)
    if layer.spatial_norm is not None:
        yield "_spatial_norm", SpatialNorm(layer.spatial_norm)
    if layer.pool is not None:
        pooling = nn.MaxPool2d if layer.pooling == "max" else nn.AvgPool2d
        yield "_pool", pooling(*layer.pool, ceil_mode=True)
    if activation is not None and layer.activate == "last":
        yield "_activation", activation


def _dense(layer: PlainLayer) -> nn.Module:
    if layer.groups == 1:
        return nn.Linear(layer.inputs, layer.outputs)
    return GroupedLinear(layer.inputs, layer.outputs, layer.groups)


class GroupedLinear(nn.Module):
    """A fully connected layer in equal parts, each of which reads its own part of the inputs; (B, F) to (B, U).

    weight: (U, F / groups). The parts of an odd number of outputs are as in geometry.channel_span.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        """Allocate the parameters, zero until a state is loaded."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs // groups))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.spans = [geometry.channel_span(outputs, group, groups) for group in range(groups)]

    def forward(self, units: Tensor) -> Tensor:
        """Compute each part by itself and join them."""
        inputs = units.chunk(len(self.spans), 1)
        parts = [part @ self.weight[first:end].T for part, (first, end) in zip(inputs, self.spans, strict=True)]
        return torch.cat(parts, 1) + self.bias


class LocalNorm(nn.Module):
    """Local response normalisation within equal parts of the maps, (B, C, H, W) (§3.3)."""

    def __init__(self, norm: Norm, groups: int) -> None:
        """Take the constants of the paper's formula, which has a sum; torch's layer divides alpha by the window."""
        super().__init__()
        self.groups = groups
        self.norm = nn.LocalResponseNorm(norm.size, norm.alpha * norm.size, norm.beta, norm.k)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise each part by itself."""
        # The layer takes no (B, C); units are maps of one pixel.
        parts = [self.norm(part[..., None] if part.ndim == 2 else part) for part in maps.chunk(self.groups, 1)]
        return torch.cat(parts, 1).reshape(maps.shape)


class SpatialNorm(nn.Module):
    """Normalisation over the neighbouring pixels of the same map, clipped at the edges, (B, C, H, W)."""

    def __init__(self, norm: Norm) -> None:
        """Take the constants; the size of the window is in pixels a side."""
        super().__init__()
        self.alpha, self.beta, self.k = norm.alpha, norm.beta, norm.k
        self.size = norm.size

    def forward(self, maps: Tensor) -> Tensor:
        """Divide by (k + alpha * the sum of the squares) ** beta."""
        # Not an average pooling: in ONNX its divisor cannot be given, and padding wider than the maps is not the same.
        squares = maps.square().flatten(0, 1)[:, None]
        window = maps.new_ones(1, 1, self.size, self.size)
        total = F.conv2d(squares, window, padding=self.size // 2).view_as(maps)
        return maps / (self.k + self.alpha * total) ** self.beta


class Classifier(nn.Module):
    """A plain net with what stands before and after it: pixels (B, 3, crop, crop), RGB of 0 to 255, to both outputs."""

    def __init__(self, net: PlainAlexNet) -> None:
        """Take the net, whose mean is subtracted."""
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the probabilities, each (B, classes) float32."""
        logits = self.net(pixels - self.net.mean)
        return logits, logits.softmax(1)
