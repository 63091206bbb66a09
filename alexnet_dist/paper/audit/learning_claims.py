"""Claims about the update, the loss, dropout and the batches (§5, §4.2; weights.cu, layer.cu)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from alexnet_dist.config import Config
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.monitoring.timeline import Timeline
from alexnet_dist.nn import layers
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.paper.audit import recipes
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.training import optim
from alexnet_dist.training.build import rule_of
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, new_engine, train_step

UPDATE = Topic("§5 The update rule", "paper; weights.cu, layer.cu")
LOSS = Topic("§3.5 The objective", "paper; layer.cu")
DROPOUT = Topic("§4.2 Dropout", "paper; layer.cu")


def claims() -> Iterator[Claim]:
    """Yield the claims about the update, the loss and dropout."""
    config = recipes.recipe(recipes.PAPER)
    yield from _step_claims(config)
    yield from _dropout_claims()
    yield from _update_claims(config)


@dataclass(frozen=True)
class Update:
    """What one update does to one weight and to one bias of the same numbers."""

    weight: float
    velocity: float
    bias: float
    bias_velocity: float


def one_update(config: Config, weight: float, velocity: float, gradient: float, learning_rate: float = 0.01) -> Update:
    """Apply the recipe's rule once, to a weight and to a bias."""
    names = ("conv1.weight", "conv1.bias")
    values, gradients, velocities = (
        {name: torch.full((1, 1), number, dtype=torch.float64) for name in names}
        for number in (weight, gradient, velocity)
    )
    optim.update(values, gradients, velocities, Rates(learning_rate, learning_rate), rule_of(config))
    found = [tensors[name].item() for name in names for tensors in (values, velocities)]
    return Update(*found)


def _update_claims(config: Config) -> Iterator[Claim]:
    kept = one_update(config, 0.0, 1.0, 0.0)
    yield UPDATE.close("momentum: velocity kept, of weights", optim.update, 0.9, kept.velocity, 1e-12)
    yield UPDATE.close("momentum: velocity kept, of biases", optim.update, 0.9, kept.bias_velocity, 1e-12)
    yield UPDATE.close("the velocity is added to the weight", optim.update, 0.9, kept.weight, 1e-12)
    decayed = one_update(config, 1.0, 0.0, 0.0)
    yield UPDATE.close("decay: velocity, -0.0005 x rate x 1", optim.update, -5e-6, decayed.velocity, 1e-15)
    yield UPDATE.equal("decay of biases (the source's wc = 0)", optim.update, 0.0, abs(decayed.bias_velocity))
    pulled = one_update(config, 0.0, 0.0, 1.0)
    yield UPDATE.close("velocity, -rate x gradient 1", optim.update, -0.01, pulled.velocity, 1e-12)
    yield UPDATE.close("velocity, -rate x gradient 1, of biases", optim.update, -0.01, pulled.bias_velocity, 1e-12)
    dropped = one_update(config, 0.0, 1.0, 0.0, learning_rate=0.001)
    yield UPDATE.equal("moved by the old velocity, at rate / 10", optim.update, kept.weight, dropped.weight)
    large = one_update(config, 1e6, 0.0, 0.0)
    yield UPDATE.close("no largest norm (wball 0): weight 1e6", optim.update, 1e6 - 5, large.weight, 1e-6)


@dataclass
class OneBatch:
    """A source of one batch, which records its calls."""

    batch: Batch
    calls: list[str] = field(default_factory=list)

    def take(self) -> Batch:
        """Return the batch."""
        self.calls.append("take")
        return self.batch

    def send_ahead(self) -> None:
        """Record that the next batch would be sent now."""
        if "send" not in self.calls:
            self.calls.append("send")


def _step_claims(config: Config) -> Iterator[Claim]:
    net, count = recipes.small(recipes.net(recipes.PAPER), "he"), 4
    images = 50 * torch.randn(count, 3, 67, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([3, 9, 0, 3])
    batch = Batch(BatchSpec(True, 0, 0, np.arange(count), 0), images, labels, torch.arange(count))
    model, timeline = AlexNet(net, 1, torch.float64), Timeline(torch.device("cpu"))
    engine = new_engine(
        model, Reducer(model, None, timeline), rule_of(config), 5, count, 1, torch.float64, timeline
    )  # fmt: skip
    expected = _log_probability(model, batch, 5)
    gradients = torch.autograd.grad(-expected, list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    source = OneBatch(batch)
    conv1 = model.get_parameter("towers.0.conv1.weight")
    conv1.register_hook(lambda _: source.calls.append("conv1"))  # type: ignore[no-untyped-call]
    loss = train_step(engine, source, 0, Rates(0.01, 0.01)).read().loss
    yield LOSS.below("loss + mean log-probability", train_step, 1e-9, abs(loss + expected.item()))
    worst = _difference(engine, before, gradients)
    yield LOSS.below("a step is the rule on its mean gradient", train_step, 1e-9, worst)
    topic = Topic("§4.1 While a batch is computed", "paper; data layer of the source")
    yield topic.equal("sends the next batch before conv1 ends", train_step, "take send conv1", " ".join(source.calls))


def _log_probability(model: AlexNet, batch: Batch, seed: int) -> Tensor:
    """Return the mean log-probability of the labels in the first training step, from the logits, by exp and log."""
    logits = model.train()(batch.images, DropoutKey(seed, 0, batch.slots))
    exponentials = (logits - logits.max(1, keepdim=True).values).exp()
    chosen = exponentials[torch.arange(len(logits)), batch.labels] / exponentials.sum(1)
    result: Tensor = chosen.log().mean()
    return result


def _difference(engine: Engine, before: list[Tensor], gradients: tuple[Tensor, ...]) -> float:
    """Return the largest difference of a step from w - 0.01 (g + 0.0005 w), and of biases from w - 0.01 g."""
    assert isinstance(engine.model, AlexNet)
    worst = 0.0
    for (name, after), weight, gradient in zip(engine.model.named_parameters(), before, gradients, strict=True):
        decay = 0.0 if name.endswith(".bias") else 0.0005
        expected = weight - 0.01 * (gradient + decay * weight)
        worst = max(worst, (after - expected).abs().max().item())
    return worst


def _dropout_claims() -> Iterator[Claim]:
    model = AlexNet(recipes.small(recipes.net(recipes.PAPER)), 1, torch.float64).requires_grad_(False)
    images = 50 * torch.randn(64, 3, 67, 67, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tower = model.towers[0]
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    names = list(model.net.layers)
    for name in names:
        module = tower.get_submodule(name)
        module.register_forward_hook(lambda *passed, name=name: outputs.update({name: passed[2]}))
        module.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))

    def ratios(following: str, name: str) -> Tensor:
        """Return what the next layer reads, as a part of the ReLU of the layer's sums."""
        active = outputs[name].relu()
        return (inputs[following] / active)[active > 0]

    model.train()(images, DropoutKey(7, 0, torch.arange(64)))
    training = {name: ratios(following, name) for following, name in (("fc7", "fc6"), ("fc8", "fc7"))}
    zeroed = [
        name for name in ("conv3", "conv4") if (inputs[names[names.index(name) + 1]] != outputs[name].relu()).any()
    ]
    model.train()(images, DropoutKey(7, 1, torch.arange(64)))
    again = ratios("fc7", "fc6")
    model.eval()(images)
    for name, following in (("fc6", "fc7"), ("fc7", "fc8")):
        kept, count = (training[name] > 0).double().mean().item(), training[name].numel()
        yield DROPOUT.close(f"{name}: share of units kept", layers.dropout, 0.5, kept, 2.5 / count**0.5)
        yield DROPOUT.close(f"{name}: factor of the kept ones", layers.dropout, 1.0, training[name].max().item(), 1e-12)
        factors = ratios(following, name)
        spread = (factors - 0.5).abs().max().item()
        yield DROPOUT.close(f"{name}: factor at test time", Tower.stage, 0.5, factors.mean().item(), 1e-12)
        yield DROPOUT.below(f"{name}: its largest deviation", Tower.stage, 1e-12, spread)
    yield DROPOUT.equal("dropped units after conv3, conv4", Tower.stage, "none", " ".join(zeroed) or "none")
    agreement = ((again > 0) == (training["fc6"] > 0)).double().mean().item()
    yield DROPOUT.close("units equal in the next step's mask", layers.dropout, 0.5, agreement, 2.5 / len(again) ** 0.5)
