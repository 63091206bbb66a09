"""What crosses between the towers, from the geometry alone."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.nn.geometry import Geometry, Shape, channel_span, shapes

LOGITS = "logits"
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Crossing:
    """What the two towers send each other before one layer, or as logits, for one image.

    into: the layer that reads both towers; "logits" for the last exchange. maps, side: of what tower 0 sends; the maps
    of a fully connected layer are units, of side 1. floats: sent by tower 0 and by tower 1.
    """

    into: str
    maps: int
    side: int
    floats: tuple[int, int]

    @property
    def sizes_bytes(self) -> tuple[int, int]:
        """Bytes that tower 0 and tower 1 send, in float32."""
        return self.floats[0] * FLOAT32_BYTES, self.floats[1] * FLOAT32_BYTES


def tower_channels(net: Geometry, channels: int) -> list[int]:
    """Return how many of a layer's channels are in each tower."""
    spans = [channel_span(channels, tower, net.towers) for tower in range(net.towers)]
    return [end - first for first, end in spans]


def crossings(net: Geometry) -> tuple[Crossing, ...]:
    """Return what crosses in the forward pass, in order; in a net of one tower nothing does."""
    if net.towers == 1:
        return ()
    found: list[Crossing] = []
    before = None
    for shape in shapes(net):
        if before is not None and net.layers[shape.name].reads == "both":
            found.append(_crossing(net, shape.name, before))
        before = shape
    assert before is not None
    return (*found, _crossing(net, LOGITS, before))


def _crossing(net: Geometry, into: str, shape: Shape) -> Crossing:
    first, second = tower_channels(net, shape.channels)
    return Crossing(into, first, shape.side, (first * shape.side**2, second * shape.side**2))
