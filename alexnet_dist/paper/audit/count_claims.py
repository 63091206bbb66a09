"""Claims about the numbers of parameters, multiply-adds and units: of the paper's net and of its relatives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry, Layer, Shape
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.paper.audit.net_claims import watch

COUNTS = Topic("Figure 2: parameters, multiply-adds and units", "paper; layers-145.cfg")
DEVICES = Topic("Parameters of each device", "layers-145.cfg")
RELATIVES = Topic("Nets that are related to the paper's", "layers-145-half, -146, -147, -150; torchvision")

# By layer: parameters, multiply-adds of an image, units.
EXPECTED = {
    "conv1": (34_944, 105_415_200, 290_400),
    "conv2": (307_456, 223_948_800, 186_624),
    "conv3": (885_120, 149_520_384, 64_896),
    "conv4": (663_936, 112_140_288, 64_896),
    "conv5": (442_624, 74_760_192, 43_264),
    "fc6": (37_752_832, 37_748_736, 4_096),
    "fc7": (16_781_312, 16_777_216, 4_096),
    "fc8": (4_097_000, 4_096_000, 1_000),
}
# The same of torchvision's convolutions; its fully connected layers are the paper's.
TORCHVISION = {
    "conv1": (64, 23_296, 70_276_800),
    "conv2": (192, 307_392, 223_948_800),
    "conv3": (384, 663_936, 112_140_288),
    "conv4": (256, 884_992, 149_520_384),
    "conv5": (256, 590_080, 99_680_256),
}


def claims() -> Iterator[Claim]:
    """Yield the claims about counts; those of the paper's net are counted from its modules."""
    model, _ = recipes.drawn(recipes.PAPER)
    found = measured(model)
    for name, expected in EXPECTED.items():
        for kind, wanted, number in zip(("parameters", "multiply-adds", "units"), expected, found[name], strict=True):
            yield COUNTS.equal(f"{name}: {kind}", Tower, wanted, number)
    parameters, multiply_adds, units = (sum(column) for column in zip(*found.values(), strict=True))
    yield COUNTS.equal("all parameters", geometry.parameter_count, 60_965_224, parameters)
    yield COUNTS.equal("all parameters by the geometry", geometry.parameter_count, parameters, _parameters(model.net))
    yield COUNTS.equal("all multiply-adds", geometry.multiply_adds, 724_406_816, multiply_adds)
    yield COUNTS.equal("all multiply-adds by the geometry", geometry.multiply_adds, multiply_adds, _work(model.net))
    yield COUNTS.equal("all units", geometry.shapes, 659_272, units)
    yield COUNTS.deviates(
        "conv1: units, as figure 2 prints", geometry.shapes, 253_440, 55 * 55 * 96, found["conv1"][2],
        "S8: 253,440 is 55 x 48 x 96, a slip for 55 x 55 x 96. With 290,400 the sum is the paper's 650,000.",
    )  # fmt: skip
    yield COUNTS.deviates(
        "all units, with figure 2's of conv1", geometry.shapes, 622_312, 659_272, units,
        "S8: the paper's text says 650,000, which fits 659,272 and not 622,312.",
    )  # fmt: skip
    yield COUNTS.equal("inputs: 224 x 224 x 3", Geometry, 150_528, 3 * model.net.side**2)
    convolutions = [found[name] for name in found if name.startswith("conv")]
    share = sum(row[1] for row in convolutions) / multiply_adds
    yield COUNTS.close("convolutions: % of multiply-adds", geometry.multiply_adds, 92.0, 100 * share, 0.5)
    share = sum(row[0] for row in convolutions) / parameters
    yield COUNTS.close("convolutions: % of parameters", geometry.parameter_count, 3.8, 100 * share, 0.05)
    yield from _device_claims(model)
    yield from _relative_claims()


def measured(model: AlexNet) -> dict[str, tuple[int, int, int]]:
    """Return each layer's parameters, multiply-adds and units over both towers, counted from modules and outputs."""
    seen = watch(model, torch.zeros(1, 3, model.net.side, model.net.side, device="meta"))
    result: dict[str, tuple[int, int, int]] = {}
    for name, layer in seen.items():
        modules = [tower.get_submodule(name) for tower in model.towers]
        parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
        weights = sum(
            part.weight.numel()
            for module in modules
            for part in module.modules()
            if isinstance(part, nn.Conv2d | nn.Linear)
        )
        units = sum(sum(p.numel() for n, p in module.named_parameters() if n.endswith("bias")) for module in modules)
        positions = math.prod(layer.output[1:])
        result[name] = (parameters, weights * positions, units * positions)
    return result


def _parameters(net: Geometry) -> int:
    return geometry.parameter_count(net)


def _work(net: Geometry) -> int:
    return geometry.multiply_adds(net)


def _device_claims(model: AlexNet) -> Iterator[Claim]:
    towers = [sum(parameter.numel() for parameter in tower.parameters()) for tower in model.towers]
    for device, theirs in enumerate((32_531_112, 28_434_112)):
        yield DEVICES.deviates(
            f"parameters of GPU {device}", Tower, theirs, 30_482_612, towers[device],
            "S9: the source has fc8's 4,097,000 parameters on GPU 0, here each tower has half of them.",
        )  # fmt: skip
    yield DEVICES.equal("parameters of both", Tower, 60_965_224, sum(towers))


def _one_tower(widths: Mapping[str, int]) -> Geometry:
    """Return the paper's net on one device, every layer reading all maps, with other widths."""
    layers = {
        name: replace(layer, reads="own", channels=widths.get(name, layer.channels))
        for name, layer in PAPER_LAYERS.items()
    }
    return Geometry(layers, towers=1)


def _relative_claims() -> Iterator[Claim]:
    ungrouped = _one_tower({})
    yield RELATIVES.equal("without grouping: parameters", geometry.parameter_count, 62_378_344, _parameters(ungrouped))
    yield RELATIVES.equal("without grouping: multiply-adds", geometry.multiply_adds, 1_135_256_096, _work(ungrouped))
    half, unlinked, conv6, apart = (
        recipes.net(f"{recipes.SOURCE} {name}")
        for name in ("ablations/half_net", "ablations/no_links", "variants/conv6", "ablations/no_overlap")
    )
    million = round(_parameters(unlinked) / 1e6, 2)
    yield RELATIVES.equal("half net: parameters", geometry.parameter_count, 59_798_312, _parameters(half))
    yield RELATIVES.equal("half net: million multiply-adds", geometry.multiply_adds, 391.5, round(_work(half) / 1e6, 1))
    yield RELATIVES.equal("no links (#150): million parameters", geometry.parameter_count, 60.71, million)
    yield RELATIVES.equal("conv6 (#146): parameters", geometry.parameter_count, 61_555_304, _parameters(conv6))
    convolutions = [shape for shape in geometry.shapes(apart) if shape.name.startswith("conv")]
    sides = [side for shape in convolutions for side in (shape.convolved_side, shape.side)]
    chain = [side for side, before in zip(sides, [0, *sides], strict=False) if side != before]
    yield RELATIVES.equal("no overlap (#147): sides", geometry.shapes, "55 28 26 13 11 6", " ".join(map(str, chain)))
    torchvision = _one_tower({name: channels for name, (channels, _, _) in TORCHVISION.items()})
    shapes: dict[str, Shape] = {shape.name: shape for shape in geometry.shapes(torchvision)}
    for name, (_, parameters, multiply_adds) in TORCHVISION.items():
        shape = shapes[name]
        found = (shape.weights + shape.channels, shape.multiply_adds)
        yield RELATIVES.equal(f"torchvision's {name}: parameters", geometry.shapes, parameters, found[0])
        yield RELATIVES.equal(f"torchvision's {name}: multiply-adds", geometry.shapes, multiply_adds, found[1])
    found_all = _parameters(torchvision)
    yield RELATIVES.equal("torchvision's net: parameters", geometry.parameter_count, 61_100_840, found_all)
    yield RELATIVES.equal("torchvision's net: multiply-adds", geometry.multiply_adds, 714_188_480, _work(torchvision))
    yield RELATIVES.equal(
        "it is the paper's, or that ungrouped", geometry.parameter_count, False,
        found_all in (60_965_224, _parameters(ungrouped)),
    )  # fmt: skip
    one = Geometry({"conv1": Layer(4, 3), "fc2": Layer(init_bias=-7.0)}, classes=10, side=8, towers=1)
    biases = AlexNet(one).get_parameter("towers.0.fc2.bias").tolist()
    yield RELATIVES.equal("cuda-convnet2's: last biases", Tower, (-7.0,), tuple(set(biases)))
