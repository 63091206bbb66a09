"""What a config makes of a step: bfloat16 beside float32, and the warning where it is slow."""

from __future__ import annotations

import pytest
import torch

from alexnet_dist import config as configs
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import UserError
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.training import build
from alexnet_dist.training.build import slow_dtype_warning
from alexnet_dist.training.optim import Rates
from alexnet_dist.training.step import Engine, train_step
from support.runs import context, settings
from support.steps import Source, batch, fresh

STEPS, RATE = 100, 0.005
# Of the largest loss, at any of the hundred steps. Measured on a CPU: 0.041. Small differences grow as any do in
# training, so a longer or steeper curve would part further.
LARGEST_ERROR = 0.1


def curve(engine: Engine) -> torch.Tensor:
    """Return the losses of 100 steps on four images, with dropout."""
    rows, rates = batch(0, 4, torch.float32), Rates(RATE, 2 * RATE)
    return torch.tensor([train_step(engine, Source([rows]), step, rates).read().loss for step in range(STEPS)])


def test_bfloat16_follows_the_loss_curve_of_float32() -> None:
    wide = curve(fresh(1, torch.float32, torch.float32))
    narrow = curve(fresh(1, torch.float32, torch.bfloat16))
    assert wide[-10:].mean() < 0.9 * wide[:10].mean()  # it learns: the curve is not flat
    error = float((narrow - wide).abs().max() / wide.abs().max())
    assert 0 < error < LARGEST_ERROR


def test_every_setting_reaches_the_engine() -> None:
    words = ("run.seed=7", "data.global_batch=9", "train.accumulate=3", "train.dtype=bfloat16", "optim.momentum=0.5")
    config = settings(*words, "topology.layout=fused", "train.channels_last=true")
    engine = build.build_engine(context(config), Groups())
    assert (engine.seed, engine.global_batch, engine.accumulate, engine.rule.momentum) == (7, 9, 3, 0.5)
    assert engine.compute == torch.bfloat16
    wanted = AlexNet(configs.geometry(config), 7)
    for name, weight in wanted.named_parameters():
        parameter = engine.model.get_parameter(name)
        assert parameter.dtype == torch.float32
        assert parameter.equal(weight)
        assert parameter.dim() < 4 or parameter.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_without_bfloat16_is_named(dtype: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "has_bfloat16", lambda: native)
    warning = slow_dtype_warning(context(settings(f"train.dtype={dtype}", "topology.layout=fused")))
    assert (warning is not None) == (dtype == "bfloat16" and not native)
    assert warning is None or "train.dtype=float32" in warning


@pytest.mark.parametrize(
    ("wanted", "device", "problem", "compiled", "warned"),
    [
        ("auto", "cuda", None, True, False),
        ("auto", "cuda", "no compiler", False, True),
        ("auto", "cpu", None, False, False),
        ("false", "cuda", None, False, False),
        ("true", "cpu", None, True, False),
    ],
)
def test_compiling_is_automatic_on_cuda(
    wanted: str, device: str, problem: str | None, compiled: bool, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "compile_problem", lambda _device: problem)
    run = context(
        settings(f"train.compile_norm={wanted}", "model.layers.conv1.norm=true"),
        topology=Topology(0, 1, 0, "fused", torch.device(device)),
    )
    assert build.compiles(run) == compiled
    assert (build.uncompiled_warning(run) is not None) == warned


def test_a_net_without_a_norm_does_not_wait_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compile_problem", lambda _device: None)
    plain = [f"model.layers.{name}.norm=false" for name in ("conv1", "conv2")]
    run = context(settings(*plain), topology=Topology(0, 1, 0, "fused", torch.device("cuda")))
    assert not any(layer.norm for layer in run.net.layers.values())
    assert not build.compiles(run)


def test_a_compiler_that_is_asked_for_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compile_problem", lambda _device: "no compiler")
    with pytest.raises(UserError, match=r"train.compile_norm: torch.compile fails here: no compiler; install a C\+\+"):
        build.compiles(context(settings("train.compile_norm=true")))
