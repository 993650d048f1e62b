"""The bridge from the expression net's last map to the face net's layer: 1x1 convolution, deconvolution, affine."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bridge(nn.Module):
    """Brings a map of shape (C, H, W) `in_chw` to the shape and the scale of the face net's layer, `out_chw`.

    A 1x1 convolution matches the channels (FN2EN, section III-B). Where the sides differ, a deconvolution
    (fractionally strided convolution) that begins as bilinear upsampling brings the map to the larger side; where
    the face net's map is the smaller one, average pooling does. A last affine, `shift + scale * map`, carries the
    statistics that a standardised stage 1 divides by, so that the output has the face net's own scale; it is the
    identity until `set_affine` is called, and is not learned. `before_affine` is the map without it.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, in_chw: tuple[int, int, int], out_chw: tuple[int, int, int]) -> None:
        super().__init__()
        self.out_chw = out_chw
        self.conv = nn.Conv2d(in_chw[0], out_chw[0], kernel_size=1)
        self.resize = _resize(out_chw[0], in_chw[1:], out_chw[1:])
        self.register_buffer("shift", torch.zeros(out_chw))
        self.register_buffer("scale", torch.ones(out_chw))

    def set_affine(self, shift: Tensor, scale: Tensor) -> None:
        """Set the last affine; both tensors broadcast to (C, H, W); scale is above 0."""
        self.shift.copy_(shift.expand(self.out_chw))
        self.scale.copy_(scale.expand(self.out_chw))

    def before_affine(self, maps: Tensor) -> Tensor:
        """Return (B, *out_chw) of maps (B, *in_chw), as stage 1 trains it."""
        return self.resize(self.conv(maps))

    def affine(self, distilled: Tensor) -> Tensor:
        """Bring the output before the affine, (B, *out_chw), to the face net's scale."""
        return self.shift + self.scale * distilled

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, *out_chw) of maps (B, *in_chw)."""
        return self.affine(self.before_affine(maps))


def as_chw(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a layer's shape as (C, H, W); a vector (U,) is a map of one position, (U, 1, 1)."""
    channels, height, width = shape if len(shape) == 3 else (*shape, 1, 1)
    return channels, height, width


def _resize(channels: int, in_hw: tuple[int, int], out_hw: tuple[int, int]) -> nn.Module:
    if in_hw == out_hw:
        return nn.Identity()
    factor = max(-(-out // side) for side, out in zip(in_hw, out_hw, strict=True))
    if factor == 1:
        return nn.AdaptiveAvgPool2d(out_hw)
    upsample = Deconvolution(channels, factor)
    exact = (in_hw[0] * factor, in_hw[1] * factor) == out_hw
    return upsample if exact else nn.Sequential(upsample, nn.AdaptiveAvgPool2d(out_hw))


class Deconvolution(nn.ConvTranspose2d):
    """Upsampling by a whole factor, learned, between all channels; begins as bilinear interpolation of each.

    Caffe would use one kernel a channel, which can only spread a 2x2 map out smoothly: with it a student of small
    pictures explained none of the face net's feature, with full kernels some of it.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, channels, kernel_size=2 * factor - factor % 2, stride=factor, padding=factor // 2)

    def reset_parameters(self) -> None:
        """Every channel's kernel to itself is the pyramid of bilinear interpolation; the others and the bias are 0."""
        side = self.kernel_size[0]
        ramp = 1 - (torch.arange(side) - (side - 1) / 2).abs() / self.stride[0]
        with torch.no_grad():
            self.weight.zero_()
            diagonal = torch.arange(self.in_channels)
            self.weight[diagonal, diagonal] = torch.outer(ramp, ramp)
            if self.bias is not None:
                self.bias.zero_()
