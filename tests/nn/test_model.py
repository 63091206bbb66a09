"""The structure of the net: the paper's shapes and counts, names, initial weights, merged and split cross weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import Geometry, Layer
from alexnet_dist.nn.layers import Cross, Dense
from alexnet_dist.nn.model import AlexNet, Tower, merge_cross_weights, split_cross_weights
from support.nets import SMALL


@pytest.fixture(scope="module")
def paper() -> AlexNet:
    return AlexNet().eval()


def images(net: Geometry, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return 50 * torch.randn(count, 3, net.side, net.side, generator=generator, dtype=torch.float64)


def watch_outputs(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, nn.Module, Tensor, Tensor]]:
    """Return a list to which (name, module, input, output) of each module is appended as the model computes."""
    seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.append((name, module, inputs[0], output))

    for name, module in model.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(hook(name))
    return seen


def test_the_paper_has_60_965_224_parameters(paper: AlexNet) -> None:
    assert sum(p.numel() for p in paper.parameters()) == 60_965_224


def test_the_papers_shapes(paper: AlexNet) -> None:
    with torch.no_grad():
        tower, other = paper.towers
        assert isinstance(tower, Tower)
        assert isinstance(other, Tower)
        maps = torch.zeros(2, 3, 224, 224)
        expected = [(2, 128, 13, 13), (2, 128, 6, 6), (2, 2048), (2, 2048), (2, 500)]
        for stage, shape in enumerate(expected):
            maps = tower.stage(stage, maps, lambda maps=maps: maps, None)  # type: ignore[misc]
            assert maps.shape == shape
        assert len(expected) == len(other.stage_names)
        assert paper(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
        assert paper.features(torch.zeros(1, 3, 224, 224)).shape == (1, 4096)


def test_the_papers_shapes_and_multiply_adds_layer_by_layer() -> None:
    """Counted from the modules' weights and outputs, not from the geometry."""
    model = AlexNet().eval()
    seen = watch_outputs(model, (nn.Conv2d, nn.Linear))
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    shapes: dict[str, set[tuple[int, ...]]] = {}
    total = 0
    for name, module, inputs, output in seen:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += module.weight.numel() * output[0, 0].numel()
        shapes.setdefault(name.split(".")[2], set()).add((*inputs.shape[1:], 0, *output.shape[1:]))
    assert shapes == {
        "conv1": {(3, 224, 224, 0, 48, 55, 55)},
        "conv2": {(48, 27, 27, 0, 128, 27, 27)},
        "conv3": {(128, 13, 13, 0, 192, 13, 13)},
        "conv4": {(192, 13, 13, 0, 192, 13, 13)},
        "conv5": {(192, 13, 13, 0, 128, 13, 13)},
        "fc6": {(128, 6, 6, 0, 2048)},
        "fc7": {(2048, 0, 2048)},
        "fc8": {(2048, 0, 500)},
    }
    assert total == 724_406_816 == geometry.multiply_adds(Geometry())


def test_parameter_names(paper: AlexNet) -> None:
    own = [f"conv{k}.{part}" for k in (1, 2, 4, 5) for part in ("weight", "bias")]
    both = [
        f"{name}.{part}"
        for name in ("conv3", "fc6", "fc7", "fc8")
        for part in ("own.weight", "own.bias", "other.weight")
    ]
    for tower in paper.towers:
        assert sorted(name for name, _ in tower.named_parameters()) == sorted(own + both)


def test_the_papers_initial_weights(paper: AlexNet) -> None:
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name, values in paper.named_parameters():
        if name.endswith(".bias"):
            assert (values == (1 if name.split(".")[2] in ones else 0)).all()
            continue
        n = values.numel()
        assert abs(values.mean()) < 5 * 0.01 / n**0.5, name
        assert abs(values.std() / 0.01 - 1) < 5 / (2 * n) ** 0.5, name
        within = (values.abs() < 0.01).double().mean()  # of a Gaussian, 68.27 % lie within a standard deviation
        assert abs(within - 0.6827) < 5 * (0.68 * 0.32 / n) ** 0.5, name


def test_he_initial_weights() -> None:
    net = Geometry(
        layers={"conv1": Layer(64, 5, init_std="he"), "fc2": Layer(512, reads="both", init_std="he"), "fc3": Layer()},
        side=12,
    )
    tower = Tower(0, net).requires_grad_(False)
    assert float(tower.get_parameter("conv1.weight").std()) == pytest.approx((2 / (3 * 5 * 5)) ** 0.5, rel=0.05)
    for part in ("own", "other"):  # fan-in counts both towers' maps
        assert float(tower.get_parameter(f"fc2.{part}.weight").std()) == pytest.approx(
            (2 / (64 * 8 * 8)) ** 0.5, rel=0.01
        )


def test_initial_weights_belong_to_seed_and_name() -> None:
    later, both = Tower(1, SMALL, seed=4), AlexNet(SMALL, seed=4)
    alone = [Tower(0, SMALL, seed=4), later]
    for tower in (0, 1):
        for name, values in alone[tower].named_parameters():
            assert values.equal(both.get_parameter(f"towers.{tower}.{name}"))
    weights = [values.detach() for name, values in both.named_parameters() if name.endswith("weight")]
    assert len({float(values.flatten()[0]) for values in weights}) == len(weights)
    other = AlexNet(SMALL, seed=5)
    assert not any(
        values.equal(other.get_parameter(name)) for name, values in both.named_parameters() if "weight" in name
    )


def test_initial_weights_do_not_depend_on_the_rest_of_the_net() -> None:
    layers = {name: layer for name, layer in SMALL.layers.items() if name != "conv2"}
    layers["conv1"] = replace(layers["conv1"], channels=12)
    fewer = AlexNet(Geometry(layers=layers, classes=11, side=32), seed=4)
    whole = AlexNet(SMALL, seed=4)
    for name in ("conv4.weight", "fc7.own.weight", "fc7.other.weight", "fc8.own.weight"):
        assert fewer.get_parameter(f"towers.1.{name}").equal(whole.get_parameter(f"towers.1.{name}"))


def test_initial_weights_are_the_same_in_every_dtype_and_take_nothing_from_torch() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    single, double = AlexNet(SMALL), AlexNet(SMALL, dtype=torch.float64)
    assert torch.get_rng_state().equal(state)
    for name, values in single.named_parameters():
        assert double.get_parameter(name).dtype == torch.float64
        assert double.get_parameter(name).equal(values.double())


def test_merged_is_one_layer_over_both_towers_inputs() -> None:
    model, batch = AlexNet(SMALL, 1, torch.float64).eval(), images(SMALL, 2)
    features = model.features(batch)
    assert features.shape == (2, 160)
    logits = []
    for index, tower in enumerate(model.towers):
        merged = merge_cross_weights(index, dict(tower.named_parameters()))
        assert set(merged) == {f"{name}.{kind}" for name in SMALL.layers for kind in ("weight", "bias")}
        assert merged["conv3.weight"].shape == (8, 12, 3, 3)
        assert merged["fc8.weight"].shape == ((5, 160), (6, 160))[index]
        logits.append(features @ merged["fc8.weight"].T + merged["fc8.bias"])
    torch.testing.assert_close(torch.cat(logits, 1), model(batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("towers", [1, 2])
def test_features_are_what_the_last_layer_receives_without_joins_too(towers: int) -> None:
    layers = {name: replace(layer, reads="own") for name, layer in SMALL.layers.items()}
    net = replace(SMALL, layers=layers, towers=towers)
    model, batch = AlexNet(net, 1, torch.float64).eval(), images(net, 2)
    seen = watch_outputs(model, (Dense,))
    model(batch)
    received = [maps for name, _, maps, _ in seen if name.endswith(".fc8")]
    assert len(received) == towers
    assert model.features(batch).equal(torch.cat(received, 1))
    assert model.join_maps(batch) == []


def test_join_maps_are_what_the_layers_that_read_both_towers_receive() -> None:
    model, batch = AlexNet(SMALL, 1, torch.float64).eval(), images(SMALL, 2)
    seen = watch_outputs(model, (Cross,))
    model(batch)
    received = {name: maps for name, _, maps, _ in seen}
    sent = model.join_maps(batch)
    assert len(sent) == 4
    for join, towers in zip(("conv3", "fc6", "fc7", "fc8"), sent, strict=True):
        for tower, maps in enumerate(towers):
            assert maps.equal(received[f"towers.{tower}.{join}"])


@pytest.mark.parametrize("index", [0, 1])
def test_split_undoes_merged(index: int) -> None:
    tensors = dict(Tower(index, SMALL, seed=9).named_parameters())
    restored = split_cross_weights(index, SMALL, merge_cross_weights(index, tensors))
    assert set(restored) == set(tensors)
    assert all(restored[name].equal(tensor) for name, tensor in tensors.items())
