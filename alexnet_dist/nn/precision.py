"""The one module that sets torch's switches for exactness, of the whole process."""

from __future__ import annotations

import torch


def set_precision(deterministic: bool, tf32: bool) -> None:
    """Choose reproducible operations or the fastest ones, and whether float32 products may use TF32.

    deterministic: torch raises RuntimeError on an operation that is not reproducible.
    """
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
