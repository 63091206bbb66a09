"""The plain net computes our net's function: a benchmark beside another net would be a lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.nn import geometry
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.runs.weights import named_weights

NARROWER = 8


def images(rows: int) -> Tensor:
    return 60 * torch.randn(rows, 3, nets.SIDE, nets.SIDE, generator=torch.Generator().manual_seed(1))


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_the_plain_net_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        plain = nets.plain()
    assert sum(parameter.numel() for parameter in plain.parameters()) == 60_965_224
    assert geometry.parameter_count(nets.geometry()) == 60_965_224
    assert nets.geometry() == geometry.Geometry()


def test_the_plain_net_computes_our_function() -> None:
    # Larger weights than the paper's, so that the norms' denominators are far from constant.
    model = AlexNet(nets.geometry(NARROWER), 3, torch.float64).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4 if "conv1" in name else 2)
    plain = nets.plain(NARROWER).double().eval()
    plain.load_state_dict(named_weights(model))
    batch = images(2).double()
    with torch.no_grad():
        wanted, found = model(batch), plain(batch)
        assert relative(found, wanted) < 1e-12
        # In channels_last the norm's windows cross the towers' border, as the docstring says: nearly the same net.
        crossing = plain(batch.contiguous(memory_format=torch.channels_last))
    assert 1e-6 < relative(crossing, wanted) < 0.5


def test_the_plain_net_drops_units_in_training() -> None:
    plain, batch = nets.plain(NARROWER).train(), images(1)
    with torch.no_grad():
        assert not torch.equal(plain(batch), plain(batch))


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (ImportError("No module named 'torchvision'"), "torchvision is not installed"),
        (
            RuntimeError("operator torchvision::nms does not exist\nmore"),
            "fails: operator torchvision::nms does not exist",
        ),
    ],
)
def test_why_torchvision_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, problem: Exception, said: str) -> None:
    def fail() -> None:
        raise problem

    monkeypatch.setattr(nets, "torchvision_alexnet", fail)
    assert nets.torchvision_problem().endswith(said)
    monkeypatch.setattr(nets, "torchvision_alexnet", lambda: None)
    assert nets.torchvision_problem() == ""
