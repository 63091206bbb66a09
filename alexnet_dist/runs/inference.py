"""A trained run applied to images: class probabilities averaged over views."""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.errors import UserError
from alexnet_dist.runs.load import LoadedRun

# The lowest probability: a confident net yields exact zeros, which have no logarithm.
VIEWS = (1, 10)
SMALLEST = torch.finfo(torch.float64).tiny


def view_probabilities(run: LoadedRun, images: Tensor, views: int, device: torch.device) -> Tensor:
    """Return the class probabilities of images averaged over their views, (n, classes) float64 (§4.1, Testing).

    images: uint8 (n, size, size, 3). views: 1, the centre; 10, four corners and centre, and their mirror images; others
    raise ValueError.
    """
    if views not in VIEWS:
        raise ValueError(f"views: found {views}, expected one of {VIEWS}")
    crop = run.config.data.crop
    mean = augment.centre_crop(run.mean, crop).to(device)
    if views == 1:
        patches = augment.centre_crop(images, crop, channels_last=True)[None]
    else:
        patches = augment.ten_views(images, crop)
    with torch.no_grad():
        logits = [run.model(augment.network_input(patch.to(device), mean, torch.float32)) for patch in patches]
    return torch.stack(logits).double().softmax(2).mean(0)


def centre_input(run: LoadedRun, images: Tensor, device: torch.device) -> Tensor:
    """Return the net's input for the centres of images, float32 (n, 3, crop, crop).

    images: uint8 (n, size, size, 3).
    """
    crop = run.config.data.crop
    patches = augment.centre_crop(images, crop, channels_last=True)
    return augment.network_input(patches.to(device), augment.centre_crop(run.mean, crop).to(device), torch.float32)


def find_device(name: str | None) -> torch.device:
    """Return a device by its name, by default cuda if there is one; UserError if torch cannot use it here."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.zeros(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device: {name} cannot be used ({reason}); expected one such as cpu or cuda:1") from None
    return device
