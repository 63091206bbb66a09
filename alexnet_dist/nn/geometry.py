"""The geometry of the net: one frozen value with one entry per layer, and pure functions of it.

Everything in which a variant differs from the paper's net (widths, classes, image size, norm, pooling, links between
the towers, initial weights) is a value here, never a branch in the net.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

COLOURS = 3
NAME = re.compile(r"(conv|fc)(\d+)")


@dataclass(frozen=True)
class Layer:
    """One layer of all towers.

    channels: kernels or units over both towers, half of them in each; None in the last layer: the number of classes.
    kernel: side of the square kernels; 0: fully connected.
    reads: "own": the maps of the same tower (§3.2, conv2, conv4, conv5); "both": the other tower's maps as well, over
        the link (conv3, fc6, fc7, fc8). The first layer reads the image in both towers.
    activate: when the non-linearity acts: "first", before norm and pool (§3.5); "last", after them (conv1 in
        layers-145.cfg); "never": the layer is linear (fc7's bottleneck in layers-146-2011.cfg).
    norm: local response normalisation across neighbouring maps (§3.3), within the tower.
    spatial_norm: normalisation over neighbouring pixels of the same map, after `norm` (cnorm2 in layers-145.cfg).
    pool: (kernel, stride) of pooling after it (§3.4).
    pooling: "max" (§3.4), or "average" (layers-19pct.cfg, a CIFAR-10 net).
    dropout: probability with which each unit of the output is zeroed (§4.2).
    init_std: standard deviation of the zero-mean Gaussian initial weights (§5); "he": sqrt(2 / fan-in).
    init_bias: initial value of the biases (§5).
    """

    channels: int | None = None
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    reads: Literal["own", "both"] = "own"
    activate: Literal["first", "last", "never"] = "first"
    norm: bool = False
    spatial_norm: bool = False
    pool: tuple[int, int] | None = None
    pooling: Literal["max", "average"] = "max"
    dropout: float = 0.0
    init_std: float | Literal["he"] = 0.01
    init_bias: float = 0.0


@dataclass(frozen=True)
class Norm:
    """Constants of a normalisation: x / (k + alpha * sum of the squares in the window) ** beta (§3.3).

    size: of the window, in maps (§3.3) or, for a spatial norm, in pixels a side.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0


# cnorm2 of layers-145.cfg: scale 1e-3, which layer.py divides by the window's 25 pixels; the constant 1 is inferred.
SPATIAL_NORM = Norm(size=5, alpha=4e-5, beta=0.75, k=1.0)

# §3.5 and figure 2; initial weights and biases from §5. The 2012 source's 0.03 in conv3-5 is not in the text.
PAPER_LAYERS: Mapping[str, Layer] = MappingProxyType(
    {
        "conv1": Layer(channels=96, kernel=11, stride=4, norm=True, pool=(3, 2)),
        "conv2": Layer(channels=256, kernel=5, padding=2, norm=True, pool=(3, 2), init_bias=1.0),
        "conv3": Layer(channels=384, kernel=3, padding=1, reads="both"),
        "conv4": Layer(channels=384, kernel=3, padding=1, init_bias=1.0),
        "conv5": Layer(channels=256, kernel=3, padding=1, pool=(3, 2), init_bias=1.0),
        "fc6": Layer(channels=4096, reads="both", dropout=0.5, init_bias=1.0),
        "fc7": Layer(channels=4096, reads="both", dropout=0.5, init_bias=1.0),
        "fc8": Layer(reads="both"),
    }
)


@dataclass(frozen=True)
class Geometry:
    """The whole net: its layers by name, in order, and the settings they share. The default is the paper's net.

    side: of the images, in pixels. input_scale: factor for the mean-subtracted pixels on the 0-255 scale before the
    first layer; the paper's initial weights and learning rates assume 1. towers: 2, or 1 for a net on one device whose
    layers read all maps, like the half net of §3.2.
    """

    layers: Mapping[str, Layer] = field(default_factory=lambda: PAPER_LAYERS)
    classes: int = 1000
    side: int = 224
    activation: Literal["relu", "tanh"] = "relu"
    norm: Norm = Norm()
    spatial_norm: Norm = SPATIAL_NORM
    input_scale: float = 1.0
    towers: int = 2

    def __post_init__(self) -> None:
        """Sort the layers, give the last one a channel per class, and check that the net can be built.

        Raises ValueError, which names the layer, the value found and the value expected.
        """
        object.__setattr__(self, "layers", MappingProxyType(_ordered(self.layers, self.classes, self.towers)))
        for shape in shapes(self):
            if shape.side < 1:
                raise ValueError(
                    f"layers.{shape.name}: nothing of the {self.side}-pixel image is left after it (side {shape.side});"
                    " expected at least 1: use a larger data.crop, smaller strides or fewer pools"
                )


@dataclass(frozen=True)
class Shape:
    """The input and output of one layer; sides are of square maps, channels are over both towers."""

    name: str
    fan_in: int  # inputs of one output unit or kernel position
    overhang: int  # zeros to the right and below, beyond the padding
    convolved_side: int  # before pooling
    side: int  # after pooling
    channels: int
    weights: int
    multiply_adds: int  # per image


def _ordered(layers: Mapping[str, Layer], classes: int, towers: int) -> dict[str, Layer]:
    def position(name: str) -> tuple[bool, int]:
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"layers.{name}: expected a name made of conv or fc and a number, such as conv1 or fc6")
        return match[1] == "fc", int(match[2])

    names = sorted(layers, key=position)
    if len(names) < 2 or names[0][:4] != "conv" or names[-1][:2] != "fc":
        raise ValueError(f"layers: expected a convolution first and a fully connected layer last, got {names}")
    ordered = {name: layers[name] for name in names}
    last = names[-1]
    if ordered[last].channels not in (None, classes):
        raise ValueError(
            f"layers.{last}.channels: {ordered[last].channels}; expected null: the last layer has model.classes units"
        )
    ordered[last] = replace(ordered[last], channels=classes)
    for name, layer in ordered.items():
        _check(name, layer, name == last, towers)
    if ordered[names[0]].reads != "own":
        raise ValueError(f"layers.{names[0]}.reads: both; expected own: the first layer reads the image")
    if any(getattr(ordered[last], name) for name in ("norm", "spatial_norm", "pool", "dropout")):
        raise ValueError(f"layers.{last}: norm, spatial_norm, pool or dropout is set; expected none after the logits")
    return ordered


def _check(name: str, layer: Layer, is_last: bool, towers: int) -> None:
    """Raise ValueError if one layer on its own cannot be built."""
    if towers == 1 and layer.reads == "both":
        raise ValueError(f"layers.{name}.reads: both; expected own: model.towers = 1, there is no other tower to read")
    if (layer.kernel > 0) != name.startswith("conv"):
        raise ValueError(f"layers.{name}.kernel: {layer.kernel}; expected at least 1 in a conv layer, 0 in an fc layer")
    if not is_last and (layer.channels is None or layer.channels < 2 or layer.channels % towers):
        wanted = "an even number, half for each tower" if towers == 2 else "at least 2"
        raise ValueError(f"layers.{name}.channels: {layer.channels}; expected {wanted}")
    if layer.pool and (not layer.kernel or layer.pool[1] > layer.pool[0]):
        raise ValueError(
            f"layers.{name}.pool: {layer.pool}; expected (kernel, stride) with a stride of at most the kernel, so"
            " that every pixel is read, and in conv layers only"
        )
    if layer.spatial_norm and not layer.kernel:
        raise ValueError(f"layers.{name}.spatial_norm: true; expected false: only conv layers have neighbouring pixels")
    if layer.dropout and layer.kernel:
        raise ValueError(f"layers.{name}.dropout: {layer.dropout}; expected 0: only fc layers have dropout (§4.2)")


def covering(side: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Return (outputs a side, overhang) such that windows cover the whole padded side, as in cuda-convnet.

    Outputs are 1 + ceil((2 * padding + side - kernel) / stride) (layer.py of the 2012 source), so 224 pixels give 55,
    not 54. The last window may overhang the image; pixels outside it read as zero.
    """
    outputs = 1 + math.ceil((2 * padding + side - kernel) / stride)
    return outputs, (outputs - 1) * stride + kernel - 2 * padding - side


def channel_span(channels: int, tower: int, towers: int = 2) -> tuple[int, int]:
    """Return a tower's [first, end) of a layer's channels; tower 0 has the smaller half of an odd number."""
    return channels * tower // towers, channels * (tower + 1) // towers


def shapes(geometry: Geometry) -> tuple[Shape, ...]:
    """Return the shape of each layer, in order."""
    result: list[Shape] = []
    side, own, other = geometry.side, COLOURS, 0
    for name, layer in geometry.layers.items():
        assert layer.channels is not None
        inputs = own + (other if layer.reads == "both" else 0)
        kernel = layer.kernel or side  # a fully connected layer is a convolution whose kernel covers the whole map
        convolved, overhang = covering(side, kernel, layer.stride, layer.padding) if layer.kernel else (1, 0)
        fan_in = inputs * kernel * kernel
        side = covering(convolved, *layer.pool, 0)[0] if layer.pool else convolved
        weights = layer.channels * fan_in
        macs = weights * convolved * convolved
        result.append(Shape(name, fan_in, overhang, convolved, side, layer.channels, weights, macs))
        own = other = layer.channels // geometry.towers
    return tuple(result)


def stages(geometry: Geometry) -> tuple[tuple[str, ...], ...]:
    """Return each stage's layer names; a stage begins at every layer that reads both towers, that is, at a join."""
    groups: list[list[str]] = [[]]
    for name, layer in geometry.layers.items():
        if layer.reads == "both":
            groups.append([])
        groups[-1].append(name)
    return tuple(tuple(names) for names in groups)


def parameter_count(geometry: Geometry) -> int:
    """Return the number of weights and biases over all towers."""
    return sum(shape.weights + shape.channels for shape in shapes(geometry))


def multiply_adds(geometry: Geometry) -> int:
    """Return the multiply-adds of one image's forward pass over all towers, biases not counted."""
    return sum(shape.multiply_adds for shape in shapes(geometry))


def training_flops(geometry: Geometry) -> int:
    """Return the floating-point operations to train on one image: forward, input gradients and weight gradients.

    Each gradient costs a layer as much as its forward pass; the first layer has no input gradient.
    """
    first = shapes(geometry)[0].multiply_adds
    return 2 * (3 * multiply_adds(geometry) - first)
