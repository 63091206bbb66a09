"""The plain net computes the same function as our net: a benchmark beside a different net would compare nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.nn import geometry
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.runs.weights import named_weights

WIDTH_DIVISOR = 8


def images(rows: int) -> Tensor:
    return 60 * torch.randn(rows, 3, plain_nets.SIDE, plain_nets.SIDE, generator=torch.Generator().manual_seed(1))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def test_the_plain_net_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        plain = plain_nets.plain()
    assert sum(parameter.numel() for parameter in plain.parameters()) == 60_965_224
    assert geometry.parameter_count(plain_nets.geometry()) == 60_965_224
    assert plain_nets.geometry() == geometry.Geometry()


def test_the_plain_net_computes_our_function() -> None:
    # Larger weights than the paper's, so that the norms' denominators are far from constant.
    model = AlexNet(plain_nets.geometry(WIDTH_DIVISOR), 3, torch.float64).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4 if "conv1" in name else 2)
    plain = plain_nets.plain(WIDTH_DIVISOR).double().eval()
    plain.load_state_dict(named_weights(model))
    batch = images(2).double()
    with torch.no_grad():
        expected, actual = model(batch), plain(batch)
        assert relative_error(actual, expected) < 1e-12
        # In channels_last the norm's windows cross the towers' border, as its comment says: nearly the same net.
        crossing = plain(batch.contiguous(memory_format=torch.channels_last))
    assert 1e-6 < relative_error(crossing, expected) < 0.5


def test_the_plain_net_drops_units_in_training() -> None:
    plain, batch = plain_nets.plain(WIDTH_DIVISOR).train(), images(1)
    with torch.no_grad():
        assert not torch.equal(plain(batch), plain(batch))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("No module named 'torchvision'"), "torchvision is not installed"),
        (
            RuntimeError("operator torchvision::nms does not exist\nmore"),
            "fails: operator torchvision::nms does not exist",
        ),
    ],
)
def test_why_torchvision_is_missing_is_reported(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(plain_nets, "torchvision_alexnet", fail)
    assert plain_nets.torchvision_problem().endswith(message)
    monkeypatch.setattr(plain_nets, "torchvision_alexnet", lambda: None)
    assert plain_nets.torchvision_problem() == ""
