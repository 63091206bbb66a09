"""Claims about the test: the centre view, the ten views and the mean of their softmax outputs (§4.1; layer.cu)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.data.manifest import Manifest
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.nn.scoring import score
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.runs import inference
from alexnet_dist.runs.load import LoadedRun

VIEWS = Topic("§4.1 Test: ten views", "paper; layer.cu, worker.cu")
POSITIONS = ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))


def claims() -> Iterator[Claim]:
    """Yield the claims about views."""
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    image = torch.stack([rows, columns, 0 * rows], 2).to(torch.uint8)[None]  # each pixel holds its position
    views = augment.ten_views(image, 224)
    yield VIEWS.equal("views", augment.ten_views, 10, len(views))
    for number, expected in enumerate(POSITIONS):
        corner = tuple(views[number, 0, 0, 0, :2].tolist())
        yield VIEWS.equal(f"view {number + 1}: first row and column", augment.ten_views, expected, corner)
    mirrored = [int(views[number + 5].equal(views[number].flip(2))) for number in range(len(views) - 5)]
    yield VIEWS.equal("views 6 to 10 that mirror 1 to 5", augment.ten_views, 5, sum(mirrored))
    contained = sum(_is_crop(view[0]) for view in views)
    yield VIEWS.equal("whole padded images (tried, dropped)", augment.ten_views, 0, len(views) - contained)
    centre = augment.centre_crop(image, 224, channels_last=True)
    yield VIEWS.equal(
        "centre view: first row and column", augment.centre_crop, (16, 16), tuple(centre[0, 0, 0, :2].tolist())
    )
    yield from _probability_claims()
    logits = torch.arange(10.0).flip(0).expand(2, 10)  # the label's position among them is the fifth, then the sixth
    wrong = [int(score(logits[:1], torch.tensor([label]))[2]) for label in (4, 5)]
    yield VIEWS.equal("top-5: class 5th, class 6th are wrong", score, (0, 1), tuple(wrong))


def _is_crop(view: Tensor) -> bool:
    """Return whether 224 x 224 pixels are neighbours in the image, up to mirroring."""
    steps = view.to(torch.int64).diff(dim=1)[..., 1].abs()
    return view.shape == (224, 224, 3) and bool((steps == 1).all())


def _probability_claims() -> Iterator[Claim]:
    config = recipes.recipe(recipes.PAPER, "data.crop=67")
    model = AlexNet(recipes.small(recipes.net(recipes.PAPER), "he"), 1).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 76, 76, 3), generator=generator, dtype=torch.uint8)
    mean = 255 * torch.rand(3, 76, 76, generator=generator)
    run = LoadedRun(Path(), config, cast("Manifest", None), mean, model, 0)
    device = torch.device("cpu")
    by_hand = [_by_hand(model, images, mean, top, left) for top, left in ((0, 0), (0, 9), (9, 0), (9, 9), (4, 4))]
    single = torch.stack([view for pair in by_hand for view in pair])
    ten = inference.view_probabilities(run, images, 10, device)
    wanted = single.mean(0)
    where = inference.view_probabilities
    yield VIEWS.below("mean of ten softmax outputs, by hand", where, 1e-5, (ten - wanted).abs().max().item())
    logarithms = single.log().mean(0).softmax(1)
    yield VIEWS.equal("is the softmax of the mean logarithms", where, False, torch.allclose(ten, logarithms, atol=1e-5))
    one = inference.view_probabilities(run, images, 1, device)
    yield VIEWS.below("centre view's softmax output, by hand", where, 1e-5, (one - single[8]).abs().max().item())


def _by_hand(model: AlexNet, images: Tensor, mean: Tensor, top: int, left: int) -> list[Tensor]:
    """Return the softmax outputs of a view and of its mirror image, (n, classes) float64 each."""
    crops = images[:, top : top + 67, left : left + 67].permute(0, 3, 1, 2).float()
    results = []
    for view in (crops, crops.flip(3)):
        with torch.no_grad():
            logits: list[list[float]] = model(view - mean[:, 4:71, 4:71]).double().tolist()
        rows = [[math.exp(value - max(row)) for value in row] for row in logits]
        results.append(torch.tensor([[value / math.fsum(row) for value in row] for row in rows], dtype=torch.float64))
    return results
