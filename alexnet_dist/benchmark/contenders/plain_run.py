"""A whole run without our code as a contender: the plain net on the batches of WebDataset and Pillow."""

from __future__ import annotations

import torch
from torch import Tensor

from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.benchmark.contenders.loader_timing import LoaderSettings
from alexnet_dist.benchmark.contenders.peer_loaders import webdataset_pil_batches
from alexnet_dist.benchmark.contenders.training_steps import (
    StepSettings,
    check_losses,
    plain_training,
    prepare_process,
    timed,
)


def measure(
    shards: str, workers: int, classes: int, warm_up: int, width_divisor: int = 1, **values: object
) -> dict[str, float]:
    """Return the figures of the steps after `warm_up` uncounted ones; classes: of the set; values: of StepSettings."""
    settings = StepSettings(width_divisor=width_divisor, **values)  # type: ignore[arg-type]
    prepare_process(settings)
    device = torch.device(settings.device)
    loader = LoaderSettings(shards, folder="", images=0, workers=workers, batch=settings.batch, crop=plain_nets.SIDE)
    batches = webdataset_pil_batches(loader, pinned=device.type == "cuda")
    train = plain_training(plain_nets.plain(width_divisor, classes), settings, device)
    losses: list[Tensor] = []

    def step(_number: int) -> None:
        images, labels = next(batches)
        images = images.to(device, memory_format=settings.memory_format, non_blocking=True)
        losses.append(train(images, torch.as_tensor(labels).to(device, non_blocking=True)))

    seconds = timed(step, settings.steps, device, warm_up)
    check_losses([float(loss) for loss in losses])
    return {
        "images_per_second": settings.batch * settings.steps / seconds,
        "step_ms": 1000 * seconds / settings.steps,
    }
