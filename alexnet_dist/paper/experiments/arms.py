"""The arms of the experiments: which configurations each one merges, and what the paper and its source say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist import config
from alexnet_dist.config import Config

BASELINE = "baseline"
RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)  # of figure 1: each arm has the best one of its own


@dataclass(frozen=True)
class Arm:
    """One arm: the named configurations that it merges, its overrides, and the published difference in points.

    published: top-1 error on ImageNet minus that of the paper's net, None where there is no number; section: where.
    qualifier: the paper's word before the number.
    """

    name: str
    configs: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    section: str = ""
    published: float | None = None
    qualifier: str = ""


@dataclass(frozen=True)
class Job:
    """One training run: an arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """The run's directory below the experiment's."""
        return f"{self.arm.name}/seed-{self.seed}"

    def overrides(self, data: Path, directory: Path) -> list[str]:
        """Return the key=value arguments of the run."""
        own = [f"run.seed={self.seed}", f"data.root={data}", f"run.directory={directory / self.name}"]
        return [*self.arm.overrides, *own]

    def config(self, data: Path, directory: Path) -> Config:
        """Return the run's configuration."""
        return config.load([Path(name) for name in self.arm.configs], self.overrides(data, directory)).config


def _ablation(
    name: str, section: str, published: float | None = None, qualifier: str = "", folder: str = "ablations"
) -> Arm:
    return Arm(name, ("ablations/cifar10/baseline", f"{folder}/{name}"), (), section, published, qualifier)


# Published differences: alexnet-2012's paper, and for no_links run 150 of its source.
ABLATIONS = (
    Arm(BASELINE, ("ablations/cifar10/baseline",)),
    _ablation("half_net", "§3.2", 1.7, folder="ablations/cifar10"),
    _ablation("no_links", "run 150 of the source", 1.16, folder="ablations/cifar10"),
    _ablation("no_norm", "§3.3", 1.4),
    _ablation("no_overlap", "§3.4", 0.4, folder="ablations/cifar10"),
    _ablation("no_crops_and_flips", "§4.1"),
    _ablation("no_colour_noise", "§4.1", 1.0, "over"),
    _ablation("no_dropout", "§4.2"),
    _ablation("tanh", "§3.1"),
    _ablation("no_conv3", "§7", 2.0, "about"),
    _ablation("no_conv4", "§7", 2.0, "about"),
    _ablation("no_conv5", "§7", 2.0, "about"),
)
FIGURE1 = tuple(
    Arm(
        f"{activation}-{learning_rate:g}",
        ("figure1",),
        (f"model.activation={activation}", f"optim.learning_rate={learning_rate:g}"),
    )
    for learning_rate in sorted(RATES, key=lambda learning_rate: abs(RATES.index(learning_rate) - len(RATES) // 2))
    for activation in ("relu", "tanh")
)


def jobs_of(arms: Sequence[Arm], seeds: int) -> list[Job]:
    """Return the runs in their order: every arm with the first seed, then every arm with the second, and so on.

    So an experiment that is stopped early has as many seeds of each arm as possible.
    """
    return [Job(arm, seed) for seed in range(seeds) for arm in arms]
