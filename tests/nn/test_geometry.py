"""The paper's net in numbers, and the geometries that are rejected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry, Layer, Norm, channel_span, covering
from support import literal

PAPER = Geometry()


def changed(**layers: Layer | None) -> dict[str, Layer]:
    """Return the paper's layers with changes; None removes a layer."""
    return {name: layer for name, layer in {**PAPER_LAYERS, **layers}.items() if layer is not None}


def test_the_papers_counts() -> None:
    assert geometry.parameter_count(PAPER) == 60_965_224
    assert geometry.multiply_adds(PAPER) == 724_406_816
    assert [(shape.weights + shape.channels, shape.multiply_adds) for shape in geometry.shapes(PAPER)] == [
        (34_944, 105_415_200),
        (307_456, 223_948_800),
        (885_120, 149_520_384),
        (663_936, 112_140_288),
        (442_624, 74_760_192),
        (37_752_832, 37_748_736),
        (16_781_312, 16_777_216),
        (4_097_000, 4_096_000),
    ]


def test_training_flops_leave_out_the_gradient_of_the_image() -> None:
    forward, first = 724_406_816, 105_415_200
    weights, inputs = forward, forward - first
    assert geometry.training_flops(PAPER) == 2 * (forward + weights + inputs)


def test_the_papers_shapes() -> None:
    shapes = geometry.shapes(PAPER)
    assert [shape.name for shape in shapes] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert [shape.convolved_side for shape in shapes] == [55, 27, 13, 13, 13, 1, 1, 1]
    assert [shape.side for shape in shapes] == [27, 13, 13, 13, 6, 1, 1, 1]
    assert [shape.channels for shape in shapes] == [96, 256, 384, 384, 256, 4096, 4096, 1000]
    assert [shape.fan_in for shape in shapes] == [363, 1200, 2304, 1728, 1728, 9216, 4096, 4096]
    assert [shape.overhang for shape in shapes] == [3, 0, 0, 0, 0, 0, 0, 0]


def test_the_papers_numbers_of_units() -> None:
    units = [shape.channels * shape.convolved_side**2 for shape in geometry.shapes(PAPER)]
    assert units == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(units) == 659_272  # "650,000 neurons"


def test_the_papers_stages() -> None:
    assert geometry.stages(PAPER) == (("conv1", "conv2"), ("conv3", "conv4", "conv5"), ("fc6",), ("fc7",), ("fc8",))


def test_the_papers_constants() -> None:
    assert Norm() == Norm(size=5, alpha=1e-4, beta=0.75, k=2.0)
    assert [name for name, layer in PAPER.layers.items() if layer.norm] == ["conv1", "conv2"]
    assert {name: layer.pool for name, layer in PAPER.layers.items() if layer.pool} == dict.fromkeys(
        ["conv1", "conv2", "conv5"], (3, 2)
    )
    assert [name for name, layer in PAPER.layers.items() if layer.dropout == 0.5] == ["fc6", "fc7"]
    assert [name for name, layer in PAPER.layers.items() if layer.init_bias == 1] == [
        "conv2",
        "conv4",
        "conv5",
        "fc6",
        "fc7",
    ]
    assert {layer.init_std for layer in PAPER.layers.values()} == {0.01}


@given(side=st.integers(1, 60), kernel=st.integers(1, 12), stride=st.integers(1, 5), padding=st.integers(0, 4))
def test_windows_cover_every_pixel_and_none_is_needless(side: int, kernel: int, stride: int, padding: int) -> None:
    outputs, overhang = covering(side, kernel, stride, padding)
    assert outputs == literal.sides(side, kernel, stride, padding)
    if outputs >= 1:
        end = (outputs - 1) * stride + kernel  # of the last window, counted from the left edge of the padding
        assert end == side + 2 * padding + overhang
        assert overhang >= 0
        assert outputs == 1 or end - stride < side + 2 * padding


@pytest.mark.parametrize("side", [224, 225, 226, 227])
def test_images_of_224_to_227_pixels_give_55(side: int) -> None:
    assert covering(side, 11, 4, 0) == (55, 227 - side)


@given(channels=st.integers(2, 999))
def test_the_towers_channels_lie_side_by_side(channels: int) -> None:
    first, second = channel_span(channels, 0), channel_span(channels, 1)
    assert (first[0], first[1], second[1]) == (0, second[0], channels)
    assert first[1] == channels // 2


def test_the_half_net_has_one_tower() -> None:
    """145-half of the source; footnote 2: conv5 and the fully connected layers keep their sizes."""
    widths = {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192, "conv5": 256}
    layers = {name: replace(layer, reads="own", channels=widths.get(name, layer.channels)) for name, layer in
              PAPER_LAYERS.items()}  # fmt: skip
    half = Geometry(layers, towers=1)
    assert geometry.parameter_count(half) == 59_798_312
    assert round(geometry.multiply_adds(half) / 1e5) == 3915
    assert len(geometry.stages(half)) == 1
    assert channel_span(7, 0, 1) == (0, 7)
    with pytest.raises(ValueError, match=r"layers\.conv3\.reads: both; expected own: model\.towers = 1"):
        Geometry(towers=1)


def test_the_net_without_links_keeps_its_size() -> None:
    """150 of the source: 160 kernels a tower in conv2 and 4,096 units in fc6."""
    changes = {"conv2": 320, "conv3": None, "fc6": 8192, "fc7": None}
    layers = {
        name: replace(layer, reads="own", channels=changes[name] or layer.channels) if name in changes else layer
        for name, layer in PAPER_LAYERS.items()
    }
    assert round(geometry.parameter_count(Geometry(layers)) / 1e4) == 6071
    assert [names[0] for names in geometry.stages(Geometry(layers))] == ["conv1", "fc8"]


def test_layers_are_ordered_by_kind_and_number() -> None:
    layers = changed(conv6=Layer(channels=256, kernel=3, padding=1, reads="both"), conv10=PAPER_LAYERS["conv4"])
    shuffled = dict(sorted(layers.items(), reverse=True))
    names = ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "conv10", "fc6", "fc7", "fc8"]
    assert list(Geometry(shuffled).layers) == names


def test_the_last_layer_takes_the_classes() -> None:
    assert Geometry(classes=10_184).layers["fc8"].channels == 10_184
    assert geometry.shapes(Geometry(classes=7))[-1].weights == 7 * 4096


def test_conv6_is_the_papers_larger_net() -> None:
    assert (
        geometry.parameter_count(Geometry(changed(conv6=Layer(channels=256, kernel=3, padding=1, reads="both"))))
        == 61_555_304
    )  # layers-146 of the source, with 1,000 classes


def test_no_links_between_towers_is_one_stage() -> None:
    net = Geometry({name: replace(layer, reads="own") for name, layer in PAPER_LAYERS.items()})
    assert geometry.stages(net) == (tuple(PAPER_LAYERS),)
    assert geometry.shapes(net)[5].fan_in == 4608


def test_a_geometry_does_not_change() -> None:
    layers = changed()
    net = Geometry(layers)
    layers["conv1"] = Layer(channels=2, kernel=3)
    assert net == PAPER
    with pytest.raises(TypeError):
        net.layers["conv1"] = layers["conv1"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (changed(convx=Layer(2, 3)), r"layers\.convx: expected a name made of conv or fc and a number"),
        ({"fc1": Layer(4), "fc2": Layer()}, r"layers: expected a convolution first .*\['fc1', 'fc2'\]"),
        ({"conv1": Layer(4, 3), "conv2": Layer(4, 3)}, "fully connected layer last"),
        ({"conv1": Layer(4, 3)}, "fully connected layer last"),
        (changed(fc8=Layer(12)), r"layers\.fc8\.channels: 12; expected null: the last layer has model\.classes units"),
        (changed(conv2=Layer(256)), r"layers\.conv2\.kernel: 0; expected at least 1 in a conv layer"),
        (changed(fc6=Layer(4096, 3)), r"layers\.fc6\.kernel: 3; expected .* 0 in an fc layer"),
        (changed(conv3=Layer(383, 3)), r"layers\.conv3\.channels: 383; expected an even number"),
        (changed(fc7=Layer(None)), r"layers\.fc7\.channels: None; expected an even number"),
        (changed(fc7=Layer(0)), r"layers\.fc7\.channels: 0; expected an even number"),
        (
            changed(conv1=Layer(96, 11, reads="both")),
            r"layers\.conv1\.reads: both; expected own: the first layer reads the image",
        ),
        (
            changed(fc8=Layer(dropout=0.5)),
            r"layers\.fc8: norm, spatial_norm, pool or dropout is set; expected none after the logits",
        ),
        (
            changed(fc8=Layer(norm=True)),
            r"layers\.fc8: norm, spatial_norm, pool or dropout is set; expected none after the logits",
        ),
        (changed(conv5=Layer(256, 3, pool=(2, 3))), r"layers\.conv5\.pool: \(2, 3\); expected .* stride of at most"),
        (changed(fc7=Layer(4096, pool=(2, 2))), r"layers\.fc7\.pool: \(2, 2\); .* in conv layers only"),
        (changed(conv3=Layer(384, 3, dropout=0.5)), r"layers\.conv3\.dropout: 0\.5; expected 0"),
        (changed(conv5=Layer(256, 31)), r"layers\.conv5: nothing of the 224-pixel image is left .*data\.crop"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(layers: dict[str, Layer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(layers)


def test_multiply_adds_follow_the_image() -> None:
    def macs(**changes: Any) -> int:
        return geometry.multiply_adds(Geometry(**changes))

    assert macs(side=227) == macs()  # the overhang is multiplied as well
    assert macs(classes=2000) - macs(classes=1000) == 1000 * 4096
