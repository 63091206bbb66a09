"""Claims about the layers, their sizes, and the image of 224 pixels (§3.5; layers-145.cfg)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.data.augment import centre_crop
from alexnet_dist.nn import geometry, layers
from alexnet_dist.nn.convolution import Convolution
from alexnet_dist.nn.geometry import Layer
from alexnet_dist.nn.layers import Dense
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic

LAYERS = Topic("§3.5 The layers of each tower", "paper; layers-145.cfg")
IMAGE = Topic("§3.5 224 pixels", "layer.py, cuda-convnet2")
POOLING = Topic("§3.4 Overlapping pooling", "paper; layers-145.cfg")

# By layer: kernels of a tower with the maps that each reads, the layer's maps in a tower, their side after pooling.
EXPECTED = {
    "conv1": ("48x3x11x11 /4 p0", "48x55x55", 27),
    "conv2": ("128x48x5x5 /1 p2", "128x27x27", 13),
    "conv3": ("192x256x3x3 /1 p1", "192x13x13", 13),
    "conv4": ("192x192x3x3 /1 p1", "192x13x13", 13),
    "conv5": ("128x192x3x3 /1 p1", "128x13x13", 6),
    "fc6": ("2048x9216", "2048", 1),
    "fc7": ("2048x4096", "2048", 1),
}


class Seen(NamedTuple):
    """What one layer of a tower was seen to do: its parts, by name, with their inputs, and the layer's output."""

    parts: dict[str, nn.Module]
    inputs: tuple[int, ...]
    output: tuple[int, ...]


def watch(model: AlexNet, images: Tensor) -> dict[str, Seen]:
    """Return what each layer of tower 0 does with images, by name, with shapes without the batch."""
    seen: dict[str, Seen] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layer, _, part = name.partition(".")
        before = seen.get(layer)
        parts = {**(before.parts if before else {}), part: module}
        seen[layer] = Seen(parts, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

    tower = model.towers[0]
    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in tower.named_modules()
        if isinstance(module, Convolution | Dense)
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


def claims() -> Iterator[Claim]:
    """Yield the claims about the layers."""
    model, _ = recipes.drawn(recipes.PAPER)
    seen = watch(model, torch.zeros(1, 3, 224, 224, device="meta"))
    names = list(seen)
    yield from _activation_claims()
    yield LAYERS.equal("conv1 reads", Tower, "3x224x224", "x".join(map(str, seen["conv1"].inputs)))
    for name, (kernels, output, side) in EXPECTED.items():
        following = names[names.index(name) + 1]
        yield LAYERS.equal(f"{name}: kernels, stride, padding", Tower, kernels, _kernels(seen[name]))
        yield LAYERS.equal(f"{name}: maps", Tower, output, "x".join(map(str, seen[name].output)))
        if name.startswith("conv"):
            yield LAYERS.equal(f"{name}: side of what {following} reads", Tower.stage, side, seen[following].inputs[1])
    yield LAYERS.by_test(
        "both towers read the same crops", "the same",
        "tests/distributed/test_wirings.py:test_every_wiring_computes_the_oracle",
    )  # fmt: skip
    yield LAYERS.deviates(
        "fc8: units of each tower, softmax", Tower, "1,000 and 0", "500 and 500",
        " and ".join(str(tower.get_parameter("fc8.own.bias").numel()) for tower in model.towers),
        "S9: half of the classes in each tower, the same function of the same number of weights. The towers then"
        " hold and compute equally much, and both compute the loss.",
    )  # fmt: skip
    both = [name for name, layer in seen.items() if len(layer.parts) == 2]
    yield LAYERS.equal("layers that read both towers", layers.Cross, "conv3 fc6 fc7 fc8", " ".join(both))
    groups = {part.groups for layer in seen.values() for part in layer.parts.values() if isinstance(part, nn.Conv2d)}
    yield LAYERS.equal("groups within a tower's convolutions", Tower, (1,), tuple(groups))
    biases = [_biases(layer) == layer.output[0] for layer in seen.values()]
    yield LAYERS.equal("layers with one bias a map or unit", Tower, 8, sum(biases))
    yield from _image_claims()
    yield from _pooling_claims(model)


def _kernels(seen: Seen) -> str:
    shapes = [tuple(part.get_parameter("weight").shape) for part in seen.parts.values()]
    whole = (shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:])
    first = next(iter(seen.parts.values()))
    text = "x".join(map(str, whole))
    return f"{text} /{first.stride[0]} p{first.padding[0]}" if isinstance(first, nn.Conv2d) else text


def _biases(seen: Seen) -> int:
    return sum(part.bias.numel() for part in seen.parts.values() if isinstance(part.bias, Tensor))


def _activation_claims() -> Iterator[Claim]:
    """ReLU follows every layer but the last: features of a net whose last hidden layer is the layer in question."""
    topic = Topic("§3.1 ReLU", "paper; layers-145.cfg")
    model = AlexNet(recipes.small(recipes.net(recipes.PAPER), "he"), 1, torch.float64).eval()
    images = 50 * torch.randn(2, 3, 67, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    tower = model.towers[0]
    for name in model.net.layers:
        module = tower.get_submodule(name)
        module.register_forward_hook(lambda *passed, name=name: outputs.update({name: passed[2]}))
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    with torch.no_grad():
        logits = model(images)
    names = list(model.net.layers)
    active = [a for a, b in pairwise(names) if outputs[a].min() < 0 <= seen[b].min()]
    yield topic.equal("hidden layers without negative outputs", Tower.stage, 7, len(active))
    yield topic.equal("fc8 has none: negative logits", Tower.stage, True, bool((logits < 0).any()))


def _image_claims() -> Iterator[Claim]:
    image = centre_crop(torch.zeros(3, 256, 256), recipes.recipe(recipes.PAPER).data.crop)
    yield IMAGE.equal("side of a crop: 256 - 2 x 16", centre_crop, 224, image.shape[-1])
    net = recipes.net(recipes.PAPER)
    for side in range(224, 228):
        first = geometry.shapes(replace(net, side=side))[0]
        found = (first.convolved_side, first.overhang)
        yield IMAGE.equal(f"{side} pixels: conv1's side, overhang", geometry.covering, (55, 227 - side), found)
    layer = replace(net.layers["conv1"], channels=8, norm=False, pool=None, init_std=1.0)
    probe = AlexNet(replace(net, layers={"conv1": layer, "fc2": Layer()}, classes=2), 0, torch.float64)
    conv1 = probe.towers[0].get_submodule("conv1").requires_grad_(False)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = conv1(image)
    padded = F.conv2d(F.pad(image, (0, 3, 0, 3)), conv1.get_parameter("weight"), stride=4)
    yield IMAGE.below("is 3 zeros to the right and below", Convolution, 1e-12, _distance(maps, padded))
    changed = image.clone()
    changed[..., 223, 223] += 1
    moved = (conv1(changed) - maps).abs().amax((0, 1)).nonzero().tolist()
    yield IMAGE.equal("outputs that the last pixel changes", Convolution, "(54, 54)", _positions(moved))
    centred = F.conv2d(image, conv1.get_parameter("weight"), stride=4, padding=2)
    yield IMAGE.equal("differs from a padding of 2", Convolution, True, _distance(maps, centred) > 1e-3)


def _distance(left: Tensor, right: Tensor) -> float:
    return (left - right).abs().max().item()


def _positions(positions: list[list[int]]) -> str:
    return " ".join(f"({y}, {x})" for y, x in positions)


def _pooling_claims(model: AlexNet) -> Iterator[Claim]:
    net = model.net
    pooled = [shape.name for shape in geometry.shapes(net) if shape.side < shape.convolved_side]
    yield POOLING.equal("layers with pooling", geometry.shapes, "conv1 conv2 conv5", " ".join(pooled))
    for (side, expected), name in zip(((55, 27), (27, 13), (13, 6)), pooled, strict=False):
        pool = net.layers[name].pool
        assert pool is not None
        maps = torch.arange(side, dtype=torch.float64).expand(1, 1, side, side).contiguous()
        result = layers.max_pool(maps, *pool)  # the column of the largest, that is, the last pixel of each window
        last = result[0, 0, 0].tolist()
        yield POOLING.equal(f"{name}: side {side} becomes", layers.max_pool, expected, result.shape[-1])
        yield POOLING.equal(f"{name}: z and s", layers.max_pool, (3, 2), (int(last[0]) + 1, int(last[1] - last[0])))
        yield POOLING.equal(
            f"{name}: windows' pixels outside", geometry.covering, 0, geometry.covering(side, *pool, 0)[1]
        )
    pool = net.layers["conv1"].pool
    assert pool is not None
    one = torch.zeros(1, 1, 5, 5)
    one[..., 2, 2] = 1
    yield POOLING.equal("windows that share a pixel", layers.max_pool, 4, int(layers.max_pool(one, *pool).sum()))
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 3, 13, 13, generator=generator)
    first, last_ = layers.max_pool(F.relu(maps), 3, 2), F.relu(layers.max_pool(maps, 3, 2))
    yield POOLING.equal("ReLU and max-pooling commute", layers.max_pool, True, first.equal(last_))
    negative = replace(net.norm, alpha=0.1)
    left, right = layers.local_response_norm(F.relu(maps), negative), F.relu(layers.local_response_norm(maps, negative))
    yield POOLING.equal("ReLU and the norm commute", layers.local_response_norm, False, torch.allclose(left, right))
