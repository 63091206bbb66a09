"""A convolution on blocks of pixels is the convolution, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from alexnet_dist.nn.convolution import convolve_blocks
from alexnet_dist.nn.geometry import covering


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    side=st.integers(1, 40), kernel=st.integers(1, 12), stride=st.integers(2, 5), padding=st.integers(0, 3),
    channels=st.integers(1, 4), channels_last=st.booleans(),
)  # fmt: skip
@example(side=224, kernel=11, stride=4, padding=0, channels=3, channels_last=True)
@example(side=32, kernel=2, stride=5, padding=0, channels=3, channels_last=False)
def test_a_convolution_on_blocks_is_the_convolution(
    side: int, kernel: int, stride: int, padding: int, channels: int, channels_last: bool
) -> None:
    outputs, overhang = covering(side, kernel, stride, padding)
    if outputs < 1:
        return
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    maps = noise(1, 2, channels, side, side).contiguous(memory_format=memory_format)
    weight = noise(2, 6, channels, kernel, kernel).contiguous(memory_format=memory_format).requires_grad_()
    bias = noise(3, 6).requires_grad_()
    found = convolve_blocks(maps, weight, bias, stride, padding, overhang)
    expected = F.conv2d(F.pad(maps, (0, overhang) * 2), weight, bias, stride, padding)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    pull = noise(4, *found.shape)
    slopes, wanted = (torch.autograd.grad(output, (weight, bias), pull) for output in (found, expected))
    torch.testing.assert_close(slopes, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_maps_keep_the_memory_format_of_the_kernels(memory_format: torch.memory_format) -> None:
    weight = noise(2, 6, 3, 5, 5).contiguous(memory_format=memory_format)
    assert convolve_blocks(noise(1, 2, 3, 17, 17), weight, None, 2, 0, 0).is_contiguous(memory_format=memory_format)


def test_under_autocast_the_products_are_bfloat16() -> None:
    weight, maps = noise(2, 6, 3, 5, 5).float(), noise(1, 2, 3, 17, 17).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve_blocks(maps, weight, None, 2, 0, 0)
        expected = F.conv2d(maps, weight, None, 2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.1)
