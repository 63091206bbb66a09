"""Local response normalisation, pooling, overhanging convolution, dropout and cross layers against literal loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.nn import layers
from alexnet_dist.nn.convolution import Convolution
from alexnet_dist.nn.geometry import Norm
from alexnet_dist.nn.layers import (
    Cross,
    Dense,
    DropoutKey,
    dropout,
    local_response_norm,
    max_pool,
    spatial_norm,
    window_sum,
)
from alexnet_dist.system import rng
from support import literal
from support.norms import literally, noise, value_and_gradient

NORMS = [Norm(), Norm(3, 0.05, 0.75, 1.0), Norm(5, 0.2, 0.5, 2.0), Norm(7, 0.1, 1.0, 1.5), Norm(1, 0.3, 1.3, 2.0)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 2, 4, 9])
def test_lrn_is_the_papers_formula(norm: Norm, channels: int) -> None:
    maps = noise(2, channels, 3, 2, scale=30.0)
    assert np.abs(local_response_norm(maps, norm).numpy() - literally(maps, norm)).max() <= 1e-12 * 30


@pytest.mark.parametrize("size", [1, 3, 5])
def test_spatial_norm_index_by_index(size: int) -> None:
    maps, norm = noise(2, 3, 6, 7, scale=5.0), Norm(size, 0.3, 0.75, 1.0)
    expected = literal.normalise_spatially(maps.numpy(), norm.k, norm.size, norm.alpha, norm.beta)
    assert np.abs(spatial_norm(maps, norm).numpy() - expected).max() <= 1e-13 * 30
    leaf = maps[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spatial_norm(x, norm), (leaf,), rtol=1e-6, atol=1e-9)


def test_lrn_takes_a_sum_where_torch_takes_a_mean() -> None:
    norm, maps = Norm(), noise(2, 9, 3, 3, scale=100.0)
    result = local_response_norm(maps, norm)
    torch.testing.assert_close(result, F.local_response_norm(maps, 5, 5 * 1e-4, 0.75, 2.0), rtol=1e-12, atol=1e-12)
    assert (result - F.local_response_norm(maps, 5, 1e-4, 0.75, 2.0)).abs().max() > 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("channels", [1, 4, 9])
def test_the_gradient_of_lrn_is_that_of_its_values(norm: Norm, channels: int) -> None:
    maps = noise(2, channels, 2, 2, scale=3.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: local_response_norm(x, norm), (maps,), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_of_lrn_is_a_difference_of_the_papers_formula(norm: Norm) -> None:
    maps, weights = noise(1, 7, 2, 1, scale=3.0), noise(7, 2, 1)
    leaf = maps.clone().requires_grad_()
    (local_response_norm(leaf, norm) * weights).sum().backward()  # type: ignore[no-untyped-call]
    step = 1e-6
    for index in np.ndindex(*maps.shape):
        ends = []
        for sign in (1, -1):
            moved = maps.clone()
            moved[index] += sign * step
            ends.append(float((literally(moved, norm) * weights.numpy()).sum()))
        assert leaf.grad is not None
        assert float(leaf.grad[index]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("norm", [Norm(), Norm(beta=0.5)])
def test_lrn_of_bfloat16_is_computed_in_float32(norm: Norm) -> None:
    maps, gradient = noise(2, 9, 4, 4, scale=60.0).bfloat16(), noise(9, 4, 4).bfloat16()
    narrow, wide = maps.clone().requires_grad_(), maps.float().requires_grad_()
    result, expected = local_response_norm(narrow, norm), local_response_norm(wide, norm)
    assert result.dtype == torch.bfloat16
    assert result.equal(expected.bfloat16())
    result.backward(gradient.expand_as(result))  # type: ignore[no-untyped-call]
    expected.backward(gradient.float().expand_as(expected))  # type: ignore[no-untyped-call]
    assert narrow.grad is not None
    assert wide.grad is not None
    assert narrow.grad.dtype == torch.bfloat16
    assert narrow.grad.equal(wide.grad.bfloat16())
    coarse = maps / (norm.k + norm.alpha * window_sum(maps.square(), norm.size)) ** norm.beta
    assert not result.equal(coarse)  # arithmetic in bfloat16 would have given this


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_lrn_does_not_depend_on_how_many_rows_the_cache_holds(
    memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, gradient = noise(7, 9, 4, 4, scale=30.0).contiguous(memory_format=memory_format), noise(7, 9, 4, 4)
    whole = value_and_gradient(maps, gradient, Norm(), compiled=False)
    monkeypatch.setattr(layers, "CHUNK_BYTES", 3 * maps[0].nbytes)
    chunk_sizes: list[int] = []

    def window(chunk: Tensor, size: int) -> Tensor:
        chunk_sizes.append(len(chunk))
        return window_sum(chunk, size)

    monkeypatch.setattr(layers, "window_sum", window)
    parts = value_and_gradient(maps, gradient, Norm(), compiled=False)
    assert chunk_sizes == [3, 3, 1] * 2
    for result, expected in zip(parts, whole, strict=True):
        assert result.equal(expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # raised inside torch's compiler
def test_compiled_lrn_is_the_same_function() -> None:
    maps, gradient, norm = noise(3, 9, 4, 4, scale=30.0), noise(3, 9, 4, 4), Norm(5, 0.2, 0.75, 2.0)
    result, eager = (value_and_gradient(maps, gradient, norm, compiled) for compiled in (True, False))
    assert np.abs(result[0].numpy() - literally(maps, norm)).max() <= 1e-12 * 30
    torch.testing.assert_close(result, eager, rtol=1e-12, atol=1e-12)
    leaf = maps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: local_response_norm(x, norm, True), (leaf,), rtol=1e-6, atol=1e-9)
    narrow = value_and_gradient(maps.bfloat16(), gradient.bfloat16(), norm, compiled=True)
    expected = value_and_gradient(maps.bfloat16(), gradient.bfloat16(), norm, compiled=False)
    torch.testing.assert_close(narrow, expected, rtol=0.008, atol=1e-6)  # the last bit of bfloat16


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # raised inside torch's compiler
def test_compiled_masks_are_the_masks() -> None:
    units = torch.ones(6, 40)
    for step in range(3):
        key = DropoutKey(1, step, torch.arange(6))
        assert dropout(units, 0.5, "fc6", 8, key, is_compiled=True).equal(dropout(units, 0.5, "fc6", 8, key))


def test_lrn_leaves_its_input_alone() -> None:
    maps = noise(1, 6, 2, 2)
    before = maps.clone()
    local_response_norm(maps, Norm())
    assert maps.equal(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lrn_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert local_response_norm(torch.ones(1, 3, 1, 1, dtype=dtype), Norm()).dtype == dtype


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(7, 3, 2), (6, 3, 2), (5, 2, 2), (8, 3, 3), (3, 3, 2), (4, 3, 1)]
)
def test_pooling_overlaps_and_covers_the_map(side: int, kernel: int, stride: int) -> None:
    maps = noise(2, 3, side, side) - 10  # negative: the part of a window outside the map must not read as zero
    for memory_format in (torch.contiguous_format, torch.channels_last):
        our_maps, torch_maps = (maps.clone(memory_format=memory_format).requires_grad_() for _ in range(2))
        result = max_pool(our_maps, kernel, stride)
        np.testing.assert_array_equal(result.detach().numpy(), literal.pool(maps.numpy(), kernel, stride))
        expected = F.max_pool2d(torch_maps, kernel, stride, ceil_mode=True)
        pull = noise(*result.shape)
        pairs = ((result, our_maps), (expected, torch_maps))
        gradients = (torch.autograd.grad(pooled, leaf, pull)[0] for pooled, leaf in pairs)
        assert next(gradients).equal(next(gradients))


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "overhang"),
    [(9, 4, 3, 0, 1), (8, 5, 4, 0, 1), (6, 3, 1, 1, 0), (7, 4, 2, 1, 1)],
)
def test_a_convolution_may_overhang(side: int, kernel: int, stride: int, padding: int, overhang: int) -> None:
    layer = Convolution(2, 3, kernel, stride, padding, overhang, bias=True).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(noise(*parameter.shape))
    maps = noise(2, 2, side, side)
    expected = literal.convolve(
        maps.numpy(), layer.weight.detach().numpy(), cast("Tensor", layer.bias).detach().numpy(), stride, padding
    )
    result = layer(maps)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_224_pixels_give_55() -> None:
    layer = Convolution(1, 2, 11, 4, 0, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(noise(2, 1, 11, 11))
    image = noise(1, 1, 224, 224)
    result = layer(image)
    assert result.shape == (1, 2, 55, 55)
    # The last window's last three rows and columns lie outside the image and read as zero.
    corner = (layer.weight[:, 0, :8, :8] * image[0, 0, 216:, 216:]).sum((1, 2))
    torch.testing.assert_close(result[0, :, 54, 54], corner, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        result[:, :, 53:, 53:].detach().numpy(),
        literal.convolve(image[:, :, 212:, 212:].numpy(), layer.weight.detach().numpy(), None, 4, 0),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_dense_layer_reads_maps_by_channel_row_and_column() -> None:
    layer = Dense(12, 5, bias=True).double()
    with torch.no_grad():
        layer.weight.copy_(noise(5, 12))
        layer.bias.copy_(noise(5))
    maps = noise(2, 3, 2, 2)
    expected = literal.connect(maps.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy())
    np.testing.assert_allclose(layer(maps).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def masks(
    dropout_key: DropoutKey, layer: str = "fc6", units: int = 64, first: int = 0, probability: float = 0.5
) -> Tensor:
    return dropout(torch.ones(len(dropout_key.slots), units), probability, layer, first, dropout_key)


def test_dropout_does_not_rescale() -> None:
    units = noise(6, 50)
    kept = dropout(units, 0.5, "fc6", 0, DropoutKey(1, 2, torch.arange(6)))
    assert ((kept == units) | (kept == 0)).all()
    assert 0 < int((kept == 0).sum()) < kept.numel()


def test_the_mask_is_the_table_of_the_dropout_key() -> None:
    slots = torch.tensor([3, 9, 127])
    expected = rng.keep(rng.key(5, "dropout", 40, "fc7"), slots, torch.arange(16, 48), 0.3)
    assert masks(DropoutKey(5, 40, slots), "fc7", 32, 16, 0.3).equal(expected.float())


def test_masks_do_not_depend_on_micro_batches_towers_or_order() -> None:
    whole = masks(DropoutKey(1, 2, torch.arange(10)))
    assert torch.cat([masks(DropoutKey(1, 2, torch.arange(*span))) for span in ((0, 3), (3, 4), (4, 10))]).equal(whole)
    assert torch.cat([masks(DropoutKey(1, 2, torch.arange(10)), units=32, first=first) for first in (0, 32)], 1).equal(
        whole
    )
    order = torch.tensor([7, 0, 3])
    assert masks(DropoutKey(1, 2, order)).equal(whole[order])


def test_masks_differ_by_seed_step_layer_and_slot() -> None:
    slots = torch.arange(4)
    tables = [
        masks(DropoutKey(1, 2, slots)),
        masks(DropoutKey(2, 2, slots)),
        masks(DropoutKey(1, 3, slots)),
        masks(DropoutKey(1, 2, slots), "fc7"),
        masks(DropoutKey(1, 2, slots + 4)),
        masks(DropoutKey(1, 2, slots), first=64),
    ]
    assert len({tuple(table.flatten().tolist()) for table in tables}) == len(tables)
    assert len({tuple(row.tolist()) for row in tables[0]}) == len(slots)


def test_the_gradient_of_a_dropped_unit_is_zero() -> None:
    units = noise(3, 20).requires_grad_()
    kept = dropout(units, 0.5, "fc6", 0, DropoutKey(0, 0, torch.arange(3)))
    kept.sum().backward()  # type: ignore[no-untyped-call]
    assert units.grad is not None
    assert units.grad.equal((kept != 0).double())


def cross(part: Callable[[bool], nn.Module]) -> Cross:
    layer = Cross(part(True), part(False)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(noise(*parameter.shape))
    return layer


def test_a_cross_layer_is_one_layer_over_both_towers() -> None:
    layer = cross(lambda bias: Convolution(2, 3, 3, 1, 1, 0, bias))
    assert [name for name, _ in layer.named_parameters()] == ["own.weight", "own.bias", "other.weight"]
    own, other, weights = noise(2, 2, 4, 4), noise(2, 2, 4, 4) + 1, layer.state_dict()
    whole = literal.convolve(
        torch.cat([own, other], 1).numpy(),
        torch.cat([weights["own.weight"], weights["other.weight"]], 1).numpy(),
        weights["own.bias"].numpy(),
        1,
        1,
    )
    np.testing.assert_allclose(layer(own, lambda: other).detach().numpy(), whole, rtol=1e-12, atol=1e-12)


def test_a_cross_layer_computes_its_own_half_while_the_other_is_on_its_way() -> None:
    layer = cross(lambda bias: Dense(4, 3, bias))
    events = []
    layer.own.register_forward_hook(lambda *_: events.append("own"))
    layer.other.register_forward_hook(lambda *_: events.append("other"))

    def other_maps() -> Tensor:
        events.append("called")
        return noise(2, 4)

    layer(noise(2, 4), other_maps)
    assert events == ["own", "called", "other"]
