"""Claims about normalisation, of the paper (§3.3) and of its source, against loops over maps and pixels in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from alexnet_dist.nn.geometry import Geometry, Layer, Norm
from alexnet_dist.nn.layers import local_response_norm, spatial_norm
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic

PAPER = Topic("§3.3 Local response normalisation", "paper")
SOURCE = Topic("§3.3 Local response normalisation", "layers-145.cfg, layer.py")
SECOND = Topic("The second norm after conv2, cnorm2", "layers-145.cfg")
MAPS, SIDE = 7, 7
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


class Probe:
    """What follows a layer of a recipe, up to its pooling, applied to sums of which many are negative.

    The layer has 7 maps of 7 x 7 pixels in each tower, from 1 x 1 kernels with random weights.
    """

    def __init__(self, net: Geometry, name: str, pooled: bool = False) -> None:
        """Take a recipe's net and a layer; pooled: whether its pooling is kept."""
        pool = net.layers[name].pool if pooled else None
        layer = replace(
            net.layers[name], channels=2 * MAPS, kernel=1, stride=1, padding=0, reads="own", pool=pool, init_std=1.0,
            init_bias=0.0,
        )  # fmt: skip
        probed = replace(net, layers={"conv1": layer, "fc2": Layer(reads="both")}, classes=2, side=SIDE)
        self.model = AlexNet(probed, 1, torch.float64).eval().requires_grad_(False)
        self.images = 50 * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).double()

    def weight(self, tower: int) -> Tensor:
        """Return a tower's kernels, (7, 3, 1, 1)."""
        return self.model.get_parameter(f"towers.{tower}.conv1.weight")

    def sums(self) -> Tensor:
        """Return tower 0's sums, (7, 7, 7)."""
        conv1: Tensor = self.model.towers[0].get_submodule("conv1")(self.images)
        return conv1[0]

    def result(self) -> Tensor:
        """Return tower 0's maps after what follows the layer, (7, 7, 7)."""
        maps = self.model.features(self.images)
        side = math.isqrt(maps.numel() // (2 * MAPS))
        return maps.view(2, MAPS, side, side)[0]


def claims() -> Iterator[Claim]:
    """Yield the claims about both norms."""
    paper, source = recipes.net(recipes.PAPER), recipes.net(recipes.SOURCE)
    yield from _constants(PAPER, paper.norm, 1e-4)
    yield from _paper_claims(Probe(paper, "conv1"))
    yield PAPER.equal("layers with this norm", Tower.stage, "conv1 conv2", _layers(paper, lambda p: _neighbours(p) > 1))
    yield PAPER.equal("conv1: negative sums count", Tower.stage, False, _counts_negatives(paper, "conv1"))
    yield PAPER.equal("conv2: negative sums count", Tower.stage, False, _counts_negatives(paper, "conv2"))
    yield from _order_claims(PAPER, paper, last=False, second=False, alpha=1e-4)

    yield from _constants(SOURCE, source.norm, 1e-4 / 5)
    probe = Probe(source, "conv1")
    torchs = nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)(probe.sums()[None])[0].relu()
    yield SOURCE.below("is torch's, alpha 1e-4, then ReLU", local_response_norm, 1e-12, _error(probe.result(), torchs))
    literal = literal_norm(probe.sums(), 2.0, 1e-4 / 5, 0.75).relu()
    yield SOURCE.below("is the formula with alpha / 5", local_response_norm, 1e-12, _error(probe.result(), literal))
    yield SOURCE.equal("conv1: negative sums count", Tower.stage, True, _counts_negatives(source, "conv1"))
    yield SOURCE.equal("conv2: negative sums count", Tower.stage, False, _counts_negatives(source, "conv2"))
    yield SOURCE.equal(
        "layers with this norm", Tower.stage, "conv1 conv2", _layers(source, lambda p: _neighbours(p) > 1)
    )
    yield from _order_claims(SOURCE, source, last=True, second=True, alpha=1e-4 / 5)
    yield from _second_claims(paper, source)


def literal_norm(maps: Tensor, k: float, alpha: float, beta: float, reach: int = 2) -> Tensor:
    """Return the paper's formula for maps (C, H, W), one number after the other in Python's float64."""
    values, result = maps.tolist(), maps.clone()
    for i, rows in enumerate(values):
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                window = range(max(0, i - reach), min(len(values) - 1, i + reach) + 1)
                total = math.fsum(values[j][y][x] ** 2 for j in window)
                result[i, y, x] = value / (k + alpha * total) ** beta
    return result


def literal_spatial_norm(maps: Tensor, k: float, alpha: float, beta: float, reach: int = 2) -> Tensor:
    """Return cnorm2's formula for maps (C, H, W): the sum is over the pixels around each one."""
    values, result = maps.tolist(), maps.clone()
    for i, rows in enumerate(values):
        for y, row in enumerate(rows):
            for x, value in enumerate(row):
                near = [line[max(0, x - reach) : x + reach + 1] for line in rows[max(0, y - reach) : y + reach + 1]]
                total = math.fsum(number**2 for line in near for number in line)
                result[i, y, x] = value / (k + alpha * total) ** beta
    return result


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a part of the largest number."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _constants(topic: Topic, norm: Norm, alpha: float) -> Iterator[Claim]:
    """Measure k, alpha, n and beta by what the norm does to maps of one number."""

    def normed(value: float, size: int = 9, at: int = 4) -> Tensor:
        maps = torch.zeros(1, size, 1, 1, dtype=torch.float64)
        maps[0, at] = value
        return local_response_norm(maps, norm)[0, :, 0, 0]

    small, large = 1e-9, 1e9
    slope = math.log(float(normed(2 * large)[4] / normed(large)[4]), 2)  # of x ** (1 - 2 beta)
    beta = (1 - slope) / 2
    k = (small / float(normed(small)[4])) ** (1 / beta)
    found = (large / float(normed(large)[4])) ** (1 / beta) / large**2
    ones = torch.full((1, 9, 1, 1), 1e-9, dtype=torch.float64)
    ones[0, 4] = large  # it divides the small numbers whose windows have it
    shrunk = local_response_norm(ones, norm)[0, :, 0, 0] < 1e-10
    yield topic.close("k (minDiv)", local_response_norm, 2.0, k, 1e-9)
    yield topic.equal("n: maps in a window", local_response_norm, 5, int(shrunk.sum()) + 1)
    text = "alpha, of the sum" if alpha == 1e-4 else "alpha: scale 1e-4 / size 5"
    yield topic.close(text, local_response_norm, alpha, found, alpha * 1e-6)
    yield topic.close("beta (pow)", local_response_norm, 0.75, beta, 1e-9)


def _paper_claims(probe: Probe) -> Iterator[Claim]:
    active, result = probe.sums().relu(), probe.result()
    literal = literal_norm(active, 2.0, 1e-4, 0.75)
    yield PAPER.below("is the formula, a sum, after ReLU", local_response_norm, 1e-12, _error(result, literal))
    torchs = nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)(active[None])[0]
    yield PAPER.below("is torch's mean with alpha 5e-4", local_response_norm, 1e-12, _error(result, torchs))
    yield PAPER.equal("window of map 3 of 0 to 6", local_response_norm, (1, 2, 3, 4, 5), _window(probe, 3))
    yield PAPER.equal("window of map 0, clipped at the end", local_response_norm, (0, 1, 2), _window(probe, 0))
    probe.weight(1).neg_()
    changed = int((probe.result() != result).sum())
    yield PAPER.equal("numbers that the other tower changes", Tower.stage, 0, changed)


def _window(probe: Probe, of: int) -> tuple[int, ...]:
    """Return the maps whose sums change a map of the result."""
    before, found = probe.result(), []
    for index in range(MAPS):
        kernel = probe.weight(0)[index]
        kept = kernel.clone()
        kernel.mul_(2)
        if not probe.result()[of].equal(before[of]):
            found.append(index)
        kernel.copy_(kept)
    return tuple(found)


def _neighbours(probe: Probe) -> int:
    return len(_window(probe, 3))


def _layers(net: Geometry, has: Callable[[Probe], bool]) -> str:
    return " ".join(name for name in CONVOLUTIONS if has(Probe(net, name))) or "none"


def _counts_negatives(net: Geometry, name: str) -> bool:
    """Return whether negative sums of map 3 change its neighbours: they do if the norm precedes the ReLU."""
    probe = Probe(net, name)
    probe.images.abs_()
    kernel = probe.weight(0)[3].abs_().neg_()
    before = probe.result()[2]
    kernel.mul_(2)
    return not probe.result()[2].equal(before)


def _second_claims(paper: Geometry, source: Geometry) -> Iterator[Claim]:
    probe, norm = Probe(source, "conv2"), source.spatial_norm
    first = literal_norm(probe.sums().relu(), 2.0, 1e-4 / 5, 0.75)
    literal = literal_spatial_norm(first, 1.0, 1e-3 / 25, 0.75)
    yield SECOND.below("ReLU, norm, cnorm2 are the formulas", spatial_norm, 1e-12, _error(probe.result(), literal))
    yield SECOND.equal("layers with it in the source", Tower.stage, "conv2", _layers(source, _reads_neighbours))
    yield SECOND.equal("layers with it in the paper", Tower.stage, "none", _layers(paper, _reads_neighbours))
    without = recipes.net(f"{recipes.SOURCE} ablations/no_norm")
    both = _layers(without, lambda p: _neighbours(p) > 1 or _reads_neighbours(p))
    yield SECOND.equal("layers with either norm in run 148", Tower.stage, "none", both)
    one = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    one[..., 4, 4] = 1e9
    near = spatial_norm(one + 1e-9, norm)[0, 0] < 1e-10
    yield SECOND.equal("pixels in a window, 5 x 5", spatial_norm, 25, int(near.sum()) + 1)
    k = (1e-9 / float(spatial_norm(torch.full((1, 1, 1, 1), 1e-9, dtype=torch.float64), norm))) ** (1 / 0.75)
    yield SECOND.close("its constant (inferred)", spatial_norm, 1.0, k, 1e-9)
    alpha = (1e9 / float(spatial_norm(one, norm)[0, 0, 4, 4])) ** (1 / 0.75) / 1e18
    yield SECOND.close("its scale, 1e-3 / 25", spatial_norm, 4e-5, alpha, 1e-11)


def _reads_neighbours(probe: Probe) -> bool:
    """Return whether another pixel of the image changes the middle of the result."""
    before = probe.result()[:, 3, 3]
    probe.images[..., 2, 2] *= 2
    return not probe.result()[:, 3, 3].equal(before)


def _order_claims(topic: Topic, net: Geometry, last: bool, second: bool, alpha: float) -> Iterator[Claim]:
    """Compare each pooled layer with the formulas in its order; last: conv1's and conv5's ReLU comes after the pool."""
    for name in ("conv1", "conv2", "conv5"):
        probe = Probe(net, name, pooled=True)
        is_last = last and name != "conv2"
        maps = probe.sums() if is_last else probe.sums().relu()
        parts = [] if is_last else ["ReLU"]
        if name != "conv5":
            maps, parts = literal_norm(maps, 2.0, alpha, 0.75), [*parts, "norm"]
        if second and name == "conv2":
            maps, parts = literal_spatial_norm(maps, 1.0, 1e-3 / 25, 0.75), [*parts, "cnorm2"]
        maps = maps.unfold(1, 3, 2).unfold(2, 3, 2).amax((-1, -2))
        parts += ["pool", "ReLU"] if is_last else ["pool"]
        error = _error(probe.result(), maps.relu())
        yield topic.below(f"{name}: {', '.join(parts)}", Tower.stage, 1e-12, error)
