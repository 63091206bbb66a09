"""Check that this machine has the devices that a benchmark needs."""

from __future__ import annotations

import torch

from alexnet_dist.errors import UserError


def check_devices(device: str, needed: int) -> None:
    """Raise UserError if device is "cuda" and torch finds fewer than `needed` CUDA devices."""
    available = torch.cuda.device_count() if device == "cuda" else needed
    if available < needed:
        raise UserError(
            f"--device cuda: torch finds {available} CUDA devices; expected at least {needed}: run this on a machine"
            " that has them, or omit --device to measure the CPU"
        )
