"""Whether this machine has the devices that a benchmark is to run on."""

from __future__ import annotations

import torch

from alexnet_dist.errors import UserError


def check_devices(device: str, needed: int) -> None:
    """Raise UserError where torch does not find as many CUDA devices as a benchmark needs."""
    found = torch.cuda.device_count() if device == "cuda" else needed
    if found < needed:
        raise UserError(
            f"--device cuda: torch finds {found} CUDA devices; expected at least {needed}: run this on a machine that"
            " has them, or leave --device out to measure the CPU"
        )
