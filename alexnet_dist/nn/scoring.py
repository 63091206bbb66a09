"""How good logits are: loss, top-1 and top-5 errors, as sums that add up over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def score(logits: Tensor, labels: Tensor) -> Tensor:
    """Return float64 sums over samples: (loss, top-1 wrong, top-5 wrong, images); samples labelled -1 do not count.

    logits: (n, classes); labels: (n,) int64. A sample is right in the top k if fewer than k classes rank before its
    label: by logit, and by index among equal logits. A sample with a logit that is not finite is wrong.
    """
    valid = labels >= 0
    logits, labels = logits[valid].double(), labels[valid][:, None]
    of_label = logits.gather(1, labels)
    classes = torch.arange(logits.shape[1], device=logits.device)
    position = ((logits > of_label) | ((logits == of_label) & (classes < labels))).sum(1)
    position[~logits.isfinite().all(1)] = logits.shape[1]
    loss = F.cross_entropy(logits, labels[:, 0], reduction="sum")
    return torch.stack([loss, (position >= 1).sum(), (position >= 5).sum(), valid.sum()]).double().cpu()
