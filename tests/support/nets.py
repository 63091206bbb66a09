"""A small net with everything the paper's net has: joins, norm, overlapping pools, dropout, an overhang."""

from __future__ import annotations

from alexnet_dist.nn.geometry import Geometry, Layer, Norm

SMALL = Geometry(
    layers={
        "conv1": Layer(channels=8, kernel=5, stride=2, norm=True, pool=(3, 2), init_std="he", init_bias=0.1),
        "conv2": Layer(channels=12, kernel=3, padding=1, norm=True, pool=(3, 2), init_std="he"),
        "conv3": Layer(channels=16, kernel=3, padding=1, reads="both", init_std="he"),
        "conv4": Layer(channels=12, kernel=3, padding=1, init_std="he"),
        "conv5": Layer(channels=8, kernel=3, padding=1, pool=(3, 2), init_std="he"),
        "fc6": Layer(channels=32, reads="both", dropout=0.5, init_std="he"),
        "fc7": Layer(channels=160, reads="both", dropout=0.5, init_std="he"),
        "fc8": Layer(reads="both", init_std="he"),
    },
    classes=11,  # odd: the towers' halves differ
    side=32,
    norm=Norm(alpha=0.05),  # strong enough that a window over both towers shows
)
