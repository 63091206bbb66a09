"""TODO."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def score(logits: Tensor, labels: Tensor) -> Tensor:
    """Return float64 sums over rows: (loss, top-1 wrong, top-5 wrong, images); rows labelled -1 do not count.

    logits: (n, classes); labels: (n,) int64. A row is right in the top k when fewer than k classes stand before its
    label by score, and by index among equal scores; a row with a score that is not finite is wrong.
    """
    rows = labels >= 0
    logits, labels = logits[rows].double(), labels[rows][:, None]
    own = logits.gather(1, labels)
    classes = torch.arange(logits.shape[1], device=logits.device)
    before = ((logits > own) | ((logits == own) & (classes < labels))).sum(1)
    before[~logits.isfinite().all(1)] = logits.shape[1]
    loss = F.cross_entropy(logits, labels[:, 0], reduction="sum")
    return torch.stack([loss, (before >= 1).sum(), (before >= 5).sum(), rows.sum()]).double().cpu()
