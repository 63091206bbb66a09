"""What is known of the errors and the learning rate of the paper's own runs, as PromQL that overlays a run's curves.

The comments of the 2012 source have the epochs at which the learning rate was lowered, and errors at the end of a run
only. No error by epoch is published, so the band is the level at which a run of the recipe has to arrive.
"""

from __future__ import annotations

from dataclasses import dataclass

from promql import of_run

VARIABLE = "paper"


@dataclass(frozen=True)
class Level:
    """The errors at the end of a run, fractions over ten views and on the centre view."""

    ten_views: float
    centre_view: float


@dataclass(frozen=True)
class Reference:
    """What is known of a run on one set.

    drops: the epochs from which the learning rate is a tenth of the one before. source: where the figures are from.
    """

    name: str
    year: int
    top1: Level
    top5: Level
    drops: tuple[int, ...]
    source: str


REFERENCES = (
    Reference(
        "ILSVRC-2012 validation", 2012, Level(0.4066, 0.4234), Level(0.1821, 0.1958), (25, 51, 79),
        "ten views and learning rate from layer-params-145.cfg, the centre view from run 170, the same net with a later"
        " schedule",
    ),
    Reference(
        "ILSVRC-2010 test", 2010, Level(0.3747, 0.3902), Level(0.1700, 0.1830), (23, 51, 78),
        "all from layer-params-145-2010.cfg",
    ),
)  # fmt: skip
CHOICES = {"none": "0"} | {reference.name: str(reference.year) for reference in REFERENCES}


def sources() -> str:
    """Return the figures of the bands and where each is from."""
    return " ".join(
        f"{reference.name}: {reference.top1.ten_views:.2%} and {reference.top5.ten_views:.2%} over ten views,"
        f" {reference.top1.centre_view:.2%} and {reference.top5.centre_view:.2%} on the centre view;"
        f" {reference.source}."
        for reference in REFERENCES
    )


def _if_chosen(reference: Reference) -> str:
    """Return PromQL of one element without labels if the reference is chosen on the dashboard, otherwise of none."""
    return f"(vector(${VARIABLE}) == {reference.year})"


def end_levels() -> dict[str, str]:
    """Return the edges of the bands by legend, each band's upper edge first: errors at the end of the chosen run."""
    return {
        f"paper's net, {top}, {view}": " or ".join(
            f"{_if_chosen(reference)} * 0 + {getattr(getattr(reference, field), attribute)}" for reference in REFERENCES
        )
        for top, field in (("top-1", "top1"), ("top-5", "top5"))
        for view, attribute in (("centre view", "centre_view"), ("ten views", "ten_views"))
    }


def learning_rate() -> str:
    """Return the learning rate that the chosen run had at each run's epoch: 0.01, lowered to a tenth three times."""
    epoch = of_run("epoch")
    return " or ".join(
        f"0.01 * 0.1 ^ ({' + '.join(f'({epoch} >= bool {drop})' for drop in reference.drops)})"
        f" and on () {_if_chosen(reference)}"
        for reference in REFERENCES
    )
