"""Claims about the initial weights and biases: statistics of nets of full size (§5; layers-145.cfg)."""

from __future__ import annotations

from collections.abc import Iterator

from alexnet_dist.nn.model import Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic

ONES = ("conv2", "conv4", "conv5", "fc6", "fc7")
WIDE = ("conv3", "conv4", "conv5")
SIGMAS = 5.0  # a statistic beyond this happens by chance once in two million draws; the seed is fixed


def claims() -> Iterator[Claim]:
    """Yield the claims about the initial values of both recipes."""
    for topic, name, wide_std in (
        (Topic("§5 Initial weights and biases", "paper"), recipes.PAPER, 0.01),
        (Topic("Initial weights and biases", "layers-145.cfg: initW, initB"), recipes.SOURCE, 0.03),
    ):
        _, layers = recipes.drawn(name)
        deviations: list[float] = []
        for layer, drawn in layers.items():
            std = wide_std if layer in WIDE else 0.01
            error = 1 / drawn.count**0.5
            yield topic.close(f"{layer}: standard deviation", Tower, std, drawn.std, SIGMAS * std * error / 2**0.5)
            yield topic.equal(f"{layer}: biases", Tower, (1.0 if layer in ONES else 0.0,), drawn.biases)
            deviations += [drawn.mean / (std * error), (drawn.within - 0.682689) / (0.4654 * error)]
        worst = max(map(abs, deviations))
        yield topic.below("mean 0, 68.3 % within one: worst sigmas", Tower, SIGMAS, worst)
