"""Exported weights in an independent net: one device, two groups, plain torch, written from the contract's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from alexnet_dist import export
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry, Norm
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.runs.weights import named_weights
from support.runs import write_run

PAPER_SHAPES = {
    "conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096),
}  # fmt: skip
Weights = Mapping[str, Tensor]


def normalise(maps: Tensor, norm: Norm) -> Tensor:
    """Each tower by itself; torch divides alpha by the window's size."""
    halves = maps.chunk(2, 1)
    return torch.cat(
        [F.local_response_norm(half, norm.size, norm.alpha * norm.size, norm.beta, norm.k) for half in halves], 1
    )


def grouped_net(w: Weights, images: Tensor, norm: Norm, activate: Callable[[Tensor], Tensor] = F.relu) -> Tensor:
    """The paper's net on one device at test time, without dropout: figure 2 with the two towers as groups."""

    def conv(name: str, maps: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        return activate(F.conv2d(maps, w[f"{name}.weight"], w[f"{name}.bias"], stride, padding, groups=groups))

    maps = conv("conv1", F.pad(images, (0, 3, 0, 3)), stride=4)
    maps = F.max_pool2d(normalise(maps, norm), 3, 2)
    maps = conv("conv2", maps, padding=2, groups=2)
    maps = F.max_pool2d(normalise(maps, norm), 3, 2)
    maps = conv("conv3", maps, padding=1)
    maps = conv("conv4", maps, padding=1, groups=2)
    maps = F.max_pool2d(conv("conv5", maps, padding=1, groups=2), 3, 2)
    units = activate(F.linear(maps.flatten(1), w["fc6.weight"], w["fc6.bias"]))
    units = activate(F.linear(units, w["fc7.weight"], w["fc7.bias"]))
    return F.linear(units, w["fc8.weight"], w["fc8.bias"])


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def images(rows: int) -> Tensor:
    return 60 * torch.randn(rows, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def narrow(**changes: object) -> Geometry:
    """The paper's geometry at an eighth of its width, with weights that keep the signal's size."""
    rows = {
        name: replace(row, channels=row.channels and row.channels // 8, init_std="he")
        for name, row in PAPER_LAYERS.items()
    }
    return replace(Geometry(rows, classes=31), **changes)  # type: ignore[arg-type]


def test_the_papers_net_as_one_plain_net() -> None:
    model = AlexNet().eval()
    weights = named_weights(model)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        f"{name}.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in PAPER_SHAPES.items()
        for kind in ("weight", "bias")
    }
    assert sum(weight.numel() for weight in weights.values()) == 60_965_224
    batch = images(2)
    with torch.no_grad():
        wanted, found = model(batch), grouped_net(weights, batch, Norm())
    assert found.shape == (2, 1000)
    assert relative(found, wanted) <= 1e-5


@pytest.mark.parametrize(
    "net",
    [
        narrow(),
        narrow(activation="tanh"),
        narrow(norm=Norm(3, 0.01, 0.5, 1.0)),
        narrow(input_scale=0.02),
        narrow(layers={name: replace(row, dropout=0.2 * row.dropout) for name, row in narrow().layers.items()}),
    ],
)
def test_the_papers_geometry_as_one_plain_net(net: Geometry) -> None:
    model, batch = AlexNet(net, seed=4).eval(), images(2)
    activate = torch.tanh if net.activation == "tanh" else F.relu
    with torch.no_grad():
        wanted = model(batch)
        assert relative(grouped_net(named_weights(model), batch, net.norm, activate), wanted) <= 1e-5
    assert relative(wanted[0], wanted[1]) > 1e-3  # the logits say something about the images


def test_the_comparison_sees_what_could_be_wrong() -> None:
    """Towers swapped, the keep probability forgotten, the window over both towers, alpha not summed."""
    model, batch = AlexNet(narrow(norm=Norm(alpha=1e-3)), seed=4).eval(), images(1)
    weights = named_weights(model)
    with torch.no_grad():
        wanted = model(batch)
        swapped = {
            name: torch.cat(weight.chunk(2)[::-1]) if name == "conv2.weight" else weight
            for name, weight in weights.items()
        }
        unfolded = {name: 2 * weight if name == "fc7.weight" else weight for name, weight in weights.items()}
        for wrong in (swapped, unfolded):
            assert relative(grouped_net(wrong, batch, model.net.norm), wanted) > 1e-3
        assert relative(grouped_net(weights, batch, replace(model.net.norm, alpha=2e-4)), wanted) > 1e-3


def test_weights_are_copies_that_need_no_gradient() -> None:
    model = AlexNet(narrow()).eval()
    weights = named_weights(model)
    assert not any(weight.requires_grad for weight in weights.values())
    before = model.get_parameter("towers.0.conv1.weight").clone()
    weights["conv1.weight"].zero_()
    assert model.get_parameter("towers.0.conv1.weight").equal(before)


def test_export_writes_the_newest_or_the_asked_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory, nets = write_run(tmp_path, (3, 5))
    out = tmp_path / "deep" / "net.safetensors"
    for arguments, step in (([], 5), (["--step", "3"], 3)):
        export.main([str(directory), str(out), *arguments])
        found, wanted = load_file(out), named_weights(nets[step])
        assert set(found) == set(wanted)
        assert all(found[name].equal(weight) for name, weight in wanted.items())
        assert f"step {step}" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        assert {"run": "run", "step": "3"}.items() <= file.metadata().items()
    assert [path.name for path in out.parent.iterdir()] == ["net.safetensors"]


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"net\.pt: expected a name that ends in \.safetensors"):
        export.main([str(tmp_path), "net.pt"])
    with pytest.raises(UserError, match="not a run"):
        export.main([str(tmp_path), str(tmp_path / "net.safetensors")])
    directory, _ = write_run(tmp_path / "home")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"net\.safetensors: cannot be written: .*; choose another file"):
        export.main([str(directory), str(tmp_path / "file" / "net.safetensors")])
    with pytest.raises(UserError, match="no valid checkpoint of step 4"):
        export.main([str(directory), str(tmp_path / "net.safetensors"), "--step", "4"])
