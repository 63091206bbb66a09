"""Convolutions whose windows cover all of their input; on CUDA those with a stride as convolutions of blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Input channels up to which a convolution with a stride is computed on blocks (`convolve_blocks`).
FEW_CHANNELS = 4


class Convolution(nn.Conv2d):
    """A convolution whose last windows may overhang the input to the right and below; the overhang reads as zero."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, overhang: int, bias: bool):
        """Take the channels, the side of the kernel and the overhang in pixels (geometry.covering)."""
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)
        self.overhang = overhang

    def reset_parameters(self) -> None:
        """Draw nothing: model.Tower draws the initial weights, each from its own stream."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        return self.convolve(maps, self.weight, self.bias)

    def convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with other kernels of this layer's size, stride and padding."""
        stride, padding = int(self.stride[0]), int(self.padding[0])
        if maps.is_cuda and stride > 1 and maps.shape[1] <= FEW_CHANNELS:
            return convolve_blocks(maps, weight, bias, stride, padding, self.overhang)
        if self.overhang:
            maps = F.pad(maps, (0, self.overhang, 0, self.overhang))
        return F.conv2d(maps, weight, bias, stride, padding)


def convolve_blocks(
    maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, overhang: int
) -> Tensor:
    """Return the same convolution of square maps (B, C, S, S), computed with a stride of 1 on blocks of pixels.

    A block of stride x stride pixels becomes the channels of one pixel, in the maps and in the kernels, which zeros
    complete to whole blocks. The paper's conv1 reads (B, 48, 57, 57) with kernels (96, 48, 3, 3) instead of
    (B, 3, 224, 224) with (96, 3, 11, 11). Only the order of the sums differs. cuDNN has fast kernels for that and none
    for three channels: forward and backward at batch 1,024 in bfloat16 take 1.6 ms instead of 10.7 on an H200.
    """
    if torch.is_autocast_enabled(maps.device.type):
        maps = maps.to(torch.get_autocast_dtype(maps.device.type))  # before the copies below, which it halves
    kernel, side = weight.shape[-1], maps.shape[-1] + 2 * padding + overhang
    blocks = -(-kernel // stride)
    needed = ((side - kernel) // stride + blocks) * stride
    pads = (padding, needed - padding - maps.shape[-1])
    memory_format = torch.channels_last if _is_channels_last(weight) else torch.contiguous_format
    padded = F.pad(maps, pads * 2), F.pad(weight, (0, blocks * stride - kernel) * 2)
    inputs, kernels = (_blocks_as_channels(each, stride).contiguous(memory_format=memory_format) for each in padded)
    return F.conv2d(inputs, kernels, bias)


def _blocks_as_channels(maps: Tensor, side: int) -> Tensor:
    """Return (B, C side², H / side, W / side), in the memory order (B, H, W, C), of maps (B, C, H, W)."""
    batch, channels, height, width = maps.shape
    split = maps.reshape(batch, channels, height // side, side, width // side, side)
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3).permute(0, 3, 1, 2)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
