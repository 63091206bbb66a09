"""Claims about the mechanics of several devices: of the 2012 source and of cuda-convnet2 (§3.2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.link import P2PLink
from alexnet_dist.distributed.topology import Topology, choose_backend, resolve_topology
from alexnet_dist.distributed.tower_parallel import LinkedTower, exchange
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn.convolution import Convolution
from alexnet_dist.nn.layers import Cross, Dense
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.paper.audit.links import MeasuringLink, ThreadLink, on_both
from alexnet_dist.system.environment import LaunchInfo
from alexnet_dist.training.build import rule_of, schedule_of
from alexnet_dist.training.schedule import Progress, rates_at
from alexnet_dist.training.step import new_engine

SOURCE = Topic("§3.2 Two devices: the source of 2012", "convnet.cu, worker.cu, weights.cu")
LATER = Topic("More devices: the later source", "cuda-convnet2; arXiv 1404.5997")


def claims() -> Iterator[Claim]:
    """Yield the claims about mechanics."""
    yield from _topology_claims()
    yield from _cross_claims()
    yield from _order_claims()
    yield from _linked_claims()
    yield from _weight_claims()
    yield from _later_claims()


def _topology_claims() -> Iterator[Claim]:
    ranks = [resolve_topology("auto", "cpu", LaunchInfo(rank, 4, rank, 4, True)) for rank in range(4)]
    found = tuple(rank.towers[0] for rank in ranks)
    yield SOURCE.deviates(
        "workers of two devices", resolve_topology, "2 threads", "2 processes",
        f"{sum(rank.replica == 0 for rank in ranks)} processes",
        "One process for each tower, started by torchrun: two Python threads would share an interpreter, and nodes"
        " share no memory. The source has one process with a thread for each GPU.",
    )  # fmt: skip
    yield SOURCE.equal("towers of ranks 0 to 3", resolve_topology, (0, 1, 0, 1), found)
    separate = choose_backend("cuda", False, (2, 20), False)
    yield SOURCE.deviates(
        "messages between two GPUs", choose_backend, "peer to peer", "nccl", separate,
        "NCCL chooses the way of a message; tests/cuda/test_cuda_ranks.py compares such ranks with one process where"
        " there are two GPUs.",
    )  # fmt: skip
    shared = choose_backend("cuda", True, (2, 20), False)
    staged = Topology(0, 2, 0, "paired", torch.device("cuda", 0), shared).is_staged
    yield SOURCE.equal("without it, through host memory", choose_backend, True, staged)


def _cross_claims() -> Iterator[Claim]:
    generator = torch.Generator().manual_seed(0)
    own, other = (torch.randn(2, 4, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs: tuple[tuple[str, nn.Module, nn.Module], ...] = (
        ("convolution", Convolution(4, 3, 3, 1, 1, 0, True), Convolution(4, 3, 3, 1, 1, 0, False)),
        ("fully connected", Dense(100, 3, True), Dense(100, 3, False)),
    )
    for name, left, right in pairs:
        layer = Cross(left.double(), right.double()).requires_grad_(False)
        for parameter in layer.parameters():
            nn.init.normal_(parameter, generator=generator)
        weights, bias = torch.cat([_weight(left), _weight(right)], 1), left.get_parameter("bias")
        if name == "convolution":
            whole = F.conv2d(torch.cat([own, other], 1), weights, bias, padding=1)
        else:
            whole = F.linear(torch.cat([own.flatten(1), other.flatten(1)], 1), weights, bias)
        difference = (layer(own, lambda: other) - whole).abs().max().item()
        yield SOURCE.below(f"{name}: sum of two products", Cross, 1e-12, difference)


def _weight(module: nn.Module) -> Tensor:
    return module.get_parameter("weight")


def _order_claims() -> Iterator[Claim]:
    net = recipes.small(recipes.net(recipes.PAPER))
    link = MeasuringLink()
    tower = Tower(0, net).eval()
    for part in ("own", "other"):
        tower.get_submodule(f"conv3.{part}").register_forward_hook(lambda *_, part=part: link.events.append(part))
    torch.autograd.backward(LinkedTower(tower, link)(torch.zeros(1, 3, net.side, net.side)).sum())
    forward = link.events[: link.events.index("other")]
    names = " ".join(event.partition(" ")[0] for event in forward)
    yield SOURCE.equal("conv3: message, own product, the other's", exchange, "send own wait", names)
    crossed = {shape for _, shape, _ in link.sent}
    weights = {tuple(parameter.shape) for parameter in tower.parameters()}
    yield SOURCE.equal("messages with weights' shapes", exchange, 0, len(crossed & weights))
    yield SOURCE.deviates(
        "numbers in messages through the host", P2PLink, "float16", "float32",
        " ".join(str(dtype).removeprefix("torch.") for dtype in link.dtypes),
        "Messages have the type of the maps (here float32). The source could quantise them, which cost 0.37"
        " points of top-5 error; train.dtype=bfloat16 exchanges bfloat16.",
    )  # fmt: skip


def _linked_claims() -> Iterator[Claim]:
    net = recipes.small(recipes.net(recipes.PAPER), "he")
    images = 50 * torch.randn(2, 3, net.side, net.side, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([1, 7])

    def tower(index: int, link: ThreadLink) -> tuple[Tensor, dict[str, Tensor]]:
        linked = LinkedTower(Tower(index, net, 3, torch.float64).eval(), link)
        logits = linked(images)
        torch.autograd.backward(F.cross_entropy(logits, labels))
        gradients = {name: p.grad for name, p in linked.tower.named_parameters() if p.grad is not None}
        return logits.detach(), gradients

    results = on_both(tower)
    whole = AlexNet(net, 3, torch.float64).eval()
    logits = whole(images)
    torch.autograd.backward(F.cross_entropy(logits, labels))
    outputs = max(_error(found, logits.detach()) for found, _ in results)
    yield SOURCE.below("two linked towers are one net: logits", LinkedTower, 1e-12, outputs)
    errors = [
        _error(gradients[name], parameter.grad)
        for index, (_, gradients) in enumerate(results)
        for name, parameter in whole.towers[index].named_parameters()
        if parameter.grad is not None
    ]
    yield SOURCE.below("local and remote gradients are added", LinkedTower, 1e-9, max(errors))
    yield SOURCE.equal("parameters with a gradient", LinkedTower, len(list(whole.parameters())), len(errors))


def _error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _weight_claims() -> Iterator[Claim]:
    model, _ = recipes.drawn(recipes.PAPER)
    held = [sum(parameter.numel() for parameter in tower.parameters()) for tower in model.towers]
    yield SOURCE.equal("parameters that both devices hold", Tower, 0, sum(held) - 60_965_224)
    yield SOURCE.deviates_by_test(
        "before weights are updated",
        "a barrier",
        "no barrier",
        "tests/distributed/test_data_parallel.py:test_every_rank_posts_in_the_same_order_and_one_kind_at_a_time",
        "A rank updates its own tower once its own gradients are complete; they include all that it waits for from the"
        " other tower. The next step's first join waits for the other tower.",
    )
    yield SOURCE.by_test(
        "steps are synchronous",
        "all ranks",
        "tests/distributed/test_wirings.py:test_every_wiring_computes_the_oracle",
    )
    yield SOURCE.by_test(
        "the next batch is sent during a step",
        "one batch ahead",
        "tests/training/test_step.py:test_the_next_batch_is_sent_when_the_last_exchange_of_backward_is_over",
    )


def _later_claims() -> Iterator[Claim]:
    replicas = [resolve_topology("auto", "cpu", LaunchInfo(rank, 4, rank, 4, True)).replica for rank in range(4)]
    yield LATER.deviates(
        "4 devices", resolve_topology, "1 hybrid net", "2 pairs", f"{len(set(replicas))} pairs",
        "S20: each pair is a whole net, and pairs divide the batch and sum their gradients. The later source splits"
        " fully connected layers over all devices, in K passes of 128 images (scheme b); its nets of 4 towers were"
        " hardly better.",
    )  # fmt: skip
    yield LATER.by_test(
        "sums over replicas: the whole gradient",
        "data parallel",
        "tests/training/test_step.py:test_replicas_add_up_to_the_global_batch",
    )
    yield LATER.by_test(
        "gradients are summed during backward",
        "in shards",
        "tests/distributed/test_data_parallel.py:test_every_gradient_is_summed_once_and_small_ones_share_messages",
    )
    config = recipes.recipe(recipes.SOURCE, "data.global_batch=512", "optim.layer_learning_rates={conv1: 0.04}")
    model, timeline = AlexNet(recipes.small(recipes.net(recipes.PAPER))), Timeline(torch.device("cpu"))
    engine = new_engine(
        model, Reducer(model, None, timeline), rule_of(config), 0, 512, 1, torch.float32, timeline
    )  # fmt: skip
    held = sum(velocity.numel() for named in engine.velocities.values() for velocity in named.values())
    yield LATER.deviates(
        "a replica's share of the velocities", new_engine, "a part", "all",
        "all" if held == sum(parameter.numel() for parameter in model.parameters()) else "a part",
        "Each replica keeps the velocities of its weights and applies the same update, so that a lost replica takes"
        " nothing with it.",
    )  # fmt: skip
    rates = rates_at(schedule_of(config), Progress(), 0, 1)
    yield LATER.deviates(
        "batch 512: rates of conv, of its biases", rates_at, (0.04, 0.08), (0.04, 0.02),
        (rates.layers["conv1"], rates.biases),
        "Weights of single layers have keys for their rates (optim.layer_learning_rates), biases share one rate; there"
        " is no update of fully connected layers after every 128 images of a larger batch.",
    )  # fmt: skip
