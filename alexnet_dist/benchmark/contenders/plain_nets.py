"""The nets that are measured beside ours: the paper's net in plain torch, and torchvision's AlexNet.

The plain net is written by hand from figure 2 of the paper, for one device, without our geometry, towers or layers.
tests/benchmark/test_plain_nets.py shows that it computes the same function as our net.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from dataclasses import replace
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry

CLASSES, SIDE = 1000, 224


class PlainNorm(nn.Module):
    """Local response normalisation by torch's own function, which divides alpha by the window's size, 5 maps."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, C, H, W): contiguous maps in two separate halves, other maps as a whole."""
        if not maps.is_contiguous():
            # In channels_last the halves are not a view, and a copy would slow the net: windows cross the border.
            return F.local_response_norm(maps, 5, alpha=5e-4, beta=0.75, k=2.0)
        batch, channels, height, width = maps.shape
        halves = maps.view(2 * batch, channels // 2, height, width)
        return F.local_response_norm(halves, 5, alpha=5e-4, beta=0.75, k=2.0).view_as(maps)


def plain(width_divisor: int = 1, classes: int = CLASSES) -> nn.Sequential:
    """Return the paper's net with the two towers as groups; width_divisor: of all its widths, 1 except in tests."""
    a, b, c, units = (width // width_divisor for width in (96, 256, 384, 4096))
    return nn.Sequential(
        OrderedDict(
            overhang=nn.ConstantPad2d((0, 3, 0, 3), 0.0),
            conv1=nn.Conv2d(3, a, 11, stride=4),
            relu1=nn.ReLU(inplace=True),
            norm1=PlainNorm(),
            pool1=nn.MaxPool2d(3, 2),
            conv2=nn.Conv2d(a, b, 5, padding=2, groups=2),
            relu2=nn.ReLU(inplace=True),
            norm2=PlainNorm(),
            pool2=nn.MaxPool2d(3, 2),
            conv3=nn.Conv2d(b, c, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(c, c, 3, padding=1, groups=2),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(c, b, 3, padding=1, groups=2),
            relu5=nn.ReLU(inplace=True),
            pool5=nn.MaxPool2d(3, 2),
            flat=nn.Flatten(),
            fc6=nn.Linear(36 * b, units),
            relu6=nn.ReLU(inplace=True),
            dropout6=nn.Dropout(0.5),
            fc7=nn.Linear(units, units),
            relu7=nn.ReLU(inplace=True),
            dropout7=nn.Dropout(0.5),
            fc8=nn.Linear(units, classes),
        )
    )


def torchvision_alexnet() -> nn.Module:
    """Return torchvision's AlexNet, of 2014: a different net of similar size, with fewer maps, no norm, no groups."""
    return cast("nn.Module", importlib.import_module("torchvision.models").alexnet(weights=None))


def torchvision_problem() -> str:
    """Return why torchvision cannot be used here, or an empty string."""
    try:
        torchvision_alexnet()
    except ImportError:
        return "torchvision is not installed"
    except Exception as error:  # a build for another version of torch may raise anything
        return f"torchvision is installed, but fails: {str(error).splitlines()[0]}"
    return ""


def geometry(width_divisor: int = 1) -> Geometry:
    """Return our description of the net that `plain` writes out."""
    layers = {
        name: replace(layer, channels=layer.channels and layer.channels // width_divisor)
        for name, layer in PAPER_LAYERS.items()
    }
    return Geometry(layers, classes=CLASSES, side=SIDE)
