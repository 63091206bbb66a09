"""What crosses between the towers, from the geometry alone."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.nn.geometry import Geometry, channel_span, shapes

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


def tower_channels(channels: int, tower: int, towers: int) -> int:
    """Return how many of a layer's channels are in a tower."""
    first, end = channel_span(channels, tower) if towers > 1 else (0, channels)
    return end - first


def crossings(net: Geometry, towers: int = 2) -> tuple[Crossing, ...]:
    """Return what crosses in the forward pass, in order; a net of one tower has nothing that crosses."""
    if towers == 1:
        return ()
    found: list[Crossing] = []
    before = None
    for shape in shapes(net):
        if before is not None and net.layers[shape.name].reads == "both":
            found.append(_crossing(shape.name, before.channels, before.side))
        before = shape
    assert before is not None
    return (*found, _crossing(LOGITS, before.channels, before.side))


def _crossing(into: str, channels: int, side: int) -> Crossing:
    maps = [tower_channels(channels, tower, 2) for tower in (0, 1)]
    return Crossing(into, maps[0], side, (maps[0] * side**2, maps[1] * side**2))
