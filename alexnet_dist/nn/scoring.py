"""How good logits are: loss, top-1 and top-5 errors, as sums that add up over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def score(logits: Tensor, labels: Tensor) -> Tensor:
    """Return float64 sums over samples: (loss, top-1 wrong, top-5 wrong, images); samples labelled -1 do not count.

    logits: (n, classes); labels: (n,) int64. A sample is right in the top k if its position is below k.
    """
    valid = labels >= 0
    logits, labels = logits[valid].double(), labels[valid]
    position = positions(logits, labels)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss, (position >= 1).sum(), (position >= 5).sum(), valid.sum()]).double().cpu()


def positions(values: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes rank before each sample's label, (n,) int64.

    values: (n, classes), logits or probabilities; labels: (n,) int64, none of them -1. Classes rank by value, and by
    index among equal values. A sample with a value that is not finite has the position after the last.
    """
    of_label = values.gather(1, labels[:, None])
    classes = torch.arange(values.shape[1], device=values.device)
    position = ((values > of_label) | ((values == of_label) & (classes < labels[:, None]))).sum(1)
    position[~values.isfinite().all(1)] = values.shape[1]
    return position
