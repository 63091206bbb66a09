"""What crosses between the towers: the paper's numbers, and what the net really sends."""

from __future__ import annotations

from dataclasses import replace

import torch

from alexnet_dist.figures.crossings import Crossing, crossings
from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry
from alexnet_dist.nn.model import AlexNet
from support.nets import SMALL

OWN = Geometry(layers={name: replace(layer, reads="own") for name, layer in PAPER_LAYERS.items()}, classes=11)


def test_the_papers_crossings() -> None:
    assert crossings(Geometry()) == (
        Crossing("conv3", 128, 13, (21_632, 21_632)),
        Crossing("fc6", 128, 6, (4_608, 4_608)),
        Crossing("fc7", 2_048, 1, (2_048, 2_048)),
        Crossing("fc8", 2_048, 1, (2_048, 2_048)),
        Crossing("logits", 500, 1, (500, 500)),
    )
    assert crossings(Geometry())[0].sizes_bytes == (86_528, 86_528)


def test_a_net_without_joins_exchanges_only_its_logits_and_one_tower_nothing() -> None:
    assert crossings(OWN) == (Crossing("logits", 5, 1, (5, 6)),)
    assert crossings(replace(OWN, towers=1)) == ()


def test_the_net_sends_what_the_geometry_says() -> None:
    net, images = AlexNet(SMALL).eval(), torch.zeros(1, 3, SMALL.side, SMALL.side)
    with torch.no_grad():
        sent = [tuple(maps[0].numel() for maps in towers) for towers in net.join_maps(images)]
    assert [crossing.floats for crossing in crossings(SMALL)] == [*sent, (5, 6)]
