"""The picture of the net: every layer of every tower, what crosses, and no text over another."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from alexnet_dist.figures.net import draw_net
from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry, Layer
from support.nets import SMALL

OWN = {name: replace(layer, reads="own") for name, layer in PAPER_LAYERS.items()}
NETS = {
    "paper": Geometry(),
    "no joins": Geometry(layers=OWN),
    "one tower": Geometry(layers=OWN, towers=1),
    "conv6": Geometry(layers={**PAPER_LAYERS, "conv6": Layer(channels=256, kernel=3, padding=1, reads="both")}),
    "small": SMALL,
}


@pytest.mark.parametrize("name", NETS)
def test_every_layer_is_drawn_and_no_text_covers_another(name: str) -> None:
    net = NETS[name]
    figure = draw_net(name, net)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = [text for text in axes.texts if text.get_text()]
    names = [text.get_text() for text in texts]
    assert all(names.count(layer) == net.towers for layer in net.layers)
    assert names.count("logits") == (2 if net.towers == 2 else 0)
    boxes = [text.get_window_extent() for text in texts]
    for (one, box), (other, second) in itertools.combinations(zip(names, boxes, strict=True), 2):
        assert not box.padded(-1).overlaps(second.padded(-1)), (one, other)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_joins_are_labelled_with_what_crosses() -> None:
    texts = [text.get_text() for text in draw_net("paper", Geometry()).axes[0].texts]
    assert "13 × 13 × 128\n21,632 floats\n86,528 bytes" in texts
    assert "6 × 6 × 128\n4,608 floats\n18,432 bytes" in texts
    assert texts.count("2,048 floats\n8,192 bytes") == 2
    assert "500 floats\n2,000 bytes" in texts
    assert "5 | 6 floats\n20 | 24 bytes" in [text.get_text() for text in draw_net("a", SMALL).axes[0].texts]
    caption = draw_net("paper", Geometry()).texts[1].get_text()
    assert "246,688 bytes" in caption.replace("\n", " ")  # 2 towers x 4 bytes x 30,836 floats
