"""Claims about what crosses between the towers in one step, measured on the net of full size at batch 128 (§3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from alexnet_dist.distributed.tower_parallel import LinkedTower, exchange, gather
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.paper.audit.links import MeasuringLink

FORWARD = Topic("§3.2 What crosses between the towers, forward", "layers-145.cfg")
BACKWARD = Topic("§3.2 What crosses between the towers, backward", "layers-145.cfg")
BATCH, MIB = 128, 2**20
# By join: floats of an image that each tower sends, and MiB at batch 128.
JOINS = {"conv3": (21_632, 10.56), "fc6": (4_608, 2.25), "fc7": (2_048, 1.0)}


def claims() -> Iterator[Claim]:
    """Yield the claims about the joins, from one training step without numbers on the meta device."""
    model, _ = recipes.drawn(recipes.PAPER)
    first = model.towers[0]
    assert isinstance(first, Tower)
    link = MeasuringLink()
    tower = LinkedTower(first.requires_grad_(True).train(), link)
    images = torch.zeros(BATCH, 3, 224, 224, device="meta")
    logits = tower(images, DropoutKey(0, 0, torch.arange(BATCH, device="meta")))
    torch.autograd.backward(logits.sum())
    sent = {name: (math.prod(shape[1:]), size / MIB) for name, shape, size in link.sent}
    yield from _sizes(FORWARD, "forward", sent)
    yield from _last_join_claims(sent)
    names = [name for name, _, _ in link.sent if name.endswith("forward")]
    yield FORWARD.equal("messages of each join", exchange, 1, len(names) // len(set(names)))
    yield FORWARD.equal("layers at which towers exchange", exchange, "conv3 fc6 fc7 fc8", _names(names))
    yield FORWARD.equal("type of the numbers", exchange, "float32", " ".join(str(d)[6:] for d in link.dtypes))
    inputs = {shape[1:] for name, shape, _ in link.sent if name.startswith("conv3")}
    yield FORWARD.equal("conv3: maps", exchange, "128x13x13", " ".join("x".join(map(str, s)) for s in inputs))
    yield from _sizes(BACKWARD, "backward", sent)
    yield BACKWARD.equal("fc8: floats an image", exchange, 2_048, sent["fc8 backward"][0])


def _sizes(topic: Topic, way: str, sent: Mapping[str, tuple[int, float]]) -> Iterator[Claim]:
    for name, (floats, mib) in JOINS.items():
        yield topic.equal(f"{name}: floats an image, each way", exchange, floats, sent[f"{name} {way}"][0])
        yield topic.equal(f"{name}: MiB at batch 128", exchange, mib, round(sent[f"{name} {way}"][1], 2))


def _names(joins: list[str]) -> str:
    return " ".join(name.partition(" ")[0] for name in joins)


def _last_join_claims(sent: dict[str, tuple[int, float]]) -> Iterator[Claim]:
    reason = (
        "S9: each tower has half of fc8 and reads the other's half of fc7, so fc7's units cross both ways and"
        " their gradients too. The source has all of fc8 on GPU 0."
    )
    floats, mib = sent["fc8 forward"]
    yield FORWARD.equal("fc8: floats an image", exchange, 2_048, floats)
    yield FORWARD.equal("fc8: MiB at batch 128", exchange, 1.0, round(mib, 2))
    yield FORWARD.deviates("fc8: from GPU 1 to GPU 0 only", exchange, True, False, "fc8 backward" not in sent, reason)
    yield FORWARD.deviates(
        "logits: floats an image", gather, 0, 500, sent["logits"][0],
        "S9: the halves of the logits are gathered in both towers; nothing of them crosses backward.",
    )  # fmt: skip
