"""Ensembles: the weighted mean of several nets' probabilities, and weights searched on a split's errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet_dist.nn.scoring import positions

GRID = 20  # a weight is tried in steps of 1/20
CHUNK = 1_000_000  # probabilities of a run that are averaged at once


def weighted_mean(probabilities: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted mean over the runs, (n, classes) float64; a run of weight 0 is left out.

    probabilities: (runs, n, classes). weights: one for each run, at least 0, with the sum 1.
    """
    total = torch.zeros(probabilities.shape[1:], dtype=torch.float64, device=probabilities.device)
    for of_run, weight in zip(probabilities, weights, strict=True):
        if weight:
            total.add_(of_run.double(), alpha=weight)
    return total


def wrong(probabilities: Tensor, labels: Tensor, weights: Sequence[float]) -> int:
    """Return how many images the weighted mean classifies wrong in the top 5; in the top 1 below six classes.

    probabilities: (runs, n, classes); labels: (n,) int64.
    """
    top, count = _top(probabilities), 0
    for rows in _chunks(probabilities):
        mean = weighted_mean(probabilities[:, rows], weights)
        count += int((positions(mean, labels[rows]) >= top).sum())
    return count


def search_weights(probabilities: Tensor, labels: Tensor) -> list[float]:
    """Return weights by coordinate descent on the number of `wrong` images, from equal weights on (avg-valid.py).

    One run's weight at a time is tried from 0 to 1 while the others keep their proportions; the best is kept, the
    nearest among equals. The search ends when no single weight makes fewer images wrong. Weights are at least 0 and
    sum to 1; they are equal unless fewer images are wrong with others.

    probabilities: (runs, n, classes); labels: (n,) int64.
    """
    runs, contest = len(probabilities), _contest(probabilities, labels)
    equal = weights = [1 / runs] * runs
    least, improving = contest.wrong(equal), runs > 1
    while improving:
        improving = False
        for run in range(runs):
            candidates = [_with_weight(weights, run, share / GRID) for share in range(GRID + 1)]
            scored = [(contest.wrong(tried), abs(tried[run] - weights[run]), tried) for tried in candidates]
            count, _, tried = min(scored)
            if count < least:
                weights, least, improving = tried, count, True
    # Sums in another order may differ in their last bit, and with it the order of two classes.
    return weights if wrong(probabilities, labels, weights) < wrong(probabilities, labels, equal) else equal


@dataclass(frozen=True)
class _Contest:
    """What weights can decide: whether a class ranks before the label, where the runs disagree on it.

    always_wrong: images that no weights classify right. before: (k,) classes that rank before the label in every run,
    for each contested image. image: (m,) the contested image of each pair of image and class. lead: (runs, m) the
    class's probability less the label's. earlier: (m,) whether the class has the smaller index.
    """

    top: int
    always_wrong: int
    before: Tensor
    image: Tensor
    lead: Tensor
    earlier: Tensor

    def wrong(self, weights: Sequence[float]) -> int:
        """Return how many images are wrong in the top with these weights."""
        lead = torch.tensor(weights) @ self.lead
        ranks_before = (lead > 0) | ((lead == 0) & self.earlier)
        before = self.before + torch.bincount(self.image[ranks_before], minlength=len(self.before))
        return self.always_wrong + int((before >= self.top).sum())


def _contest(probabilities: Tensor, labels: Tensor) -> _Contest:
    """Return what weights can decide, usually a few of the thousand classes of an image."""
    top, always_wrong, contested_before = _top(probabilities), 0, 0
    classes = torch.arange(probabilities.shape[2])
    before, image, lead, earlier = [], [], [], []
    for rows in _chunks(probabilities):
        of_chunk, truth = probabilities[:, rows].float(), labels[rows, None]
        leads = of_chunk - of_chunk.gather(2, truth.expand(len(of_chunk), -1, -1))
        is_earlier = classes < truth
        ahead = (leads > 0) | ((leads == 0) & is_earlier)
        certain, possible = ahead.all(0), ahead.any(0)
        finite = of_chunk.isfinite().all(2).all(0)
        is_wrong = (certain.sum(1) >= top) | ~finite
        contested = ~is_wrong & (possible.sum(1) >= top)
        row, column = (possible & ~certain & contested[:, None]).nonzero(as_tuple=True)
        always_wrong += int(is_wrong.sum())
        before.append(certain.sum(1)[contested])
        image.append((contested.cumsum(0) - 1)[row] + contested_before)
        lead.append(leads[:, row, column])
        earlier.append(is_earlier[row, column])
        contested_before += int(contested.sum())
    return _Contest(top, always_wrong, torch.cat(before), torch.cat(image), torch.cat(lead, 1), torch.cat(earlier))


def _with_weight(weights: Sequence[float], run: int, weight: float) -> list[float]:
    """Return weights with another one for a run; the others keep their proportions, or share equally if all are 0."""
    rest = sum(weights) - weights[run]
    if rest <= 0:
        changed = [(1 - weight) / (len(weights) - 1)] * len(weights)
    else:
        changed = [other * (1 - weight) / rest for other in weights]
    changed[run] = weight
    return changed


def _top(probabilities: Tensor) -> int:
    return 5 if probabilities.shape[2] > 5 else 1


def _chunks(probabilities: Tensor) -> list[slice]:
    _, images, classes = probabilities.shape
    rows = max(1, CHUNK // classes)
    return [slice(first, first + rows) for first in range(0, images, rows)]
