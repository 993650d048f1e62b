"""The expression net of the paper: five convolution blocks, a bridge, one fully connected layer, class scores."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.nets.bridge import Bridge

CHANNELS: tuple[int, ...] = (64, 128, 256, 512, 512)
"""Output channels of the five convolutions at width 1 (FN2EN, section III-B)."""

BLOCKS = ("plain", "residual")
"""One convolution a block, or from the second block on a second one with a shortcut around it."""


class Residual(nn.Module):
    """relu(x + norm(conv(x))): a 3x3 convolution with a shortcut around it, without pooling.

    Args:
        channels: in and out.
        batch_norm: after the convolution.
    """

    def __init__(self, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return functional.relu(maps + self.norm(self.conv(maps)), inplace=True)


class ExpNet(nn.Module):
    """O = h(g(I)): `g` are the convolutions up to the bridge, `h` the fully connected layers.

    At 224 pixels and eight classes it holds 10.6 million weights (the paper rounds to 11). Each block is a 3x3
    convolution of padding 1, ReLU and 3x3 max-pooling of stride 2 in ceil mode: 224 becomes 112, 56, 28, 14, 7.

    Args:
        classes: number of classes K, two or more.
        input_px: side of the square input in pixels, 32 or more.
        bridge_chw: (C, H, W) of the face net's layer that the bridge has to match. The paper's VGG-16 pool5 by
            default, at its own size: (512, 7, 7) for 224 pixels.
        width: factor on every convolution's channels; 1 is the paper's.
        hidden: units of the fully connected layer.
        dropout: share of the hidden layer's inputs and outputs dropped in training.
        batch_norm: batch normalisation after every convolution, for the baseline "Train From Scratch (BN)".
        pool_to_tap: blocks pool only while the map stays as large as the face net's or larger, and the last one has
            at least as many channels: so is the paper's own case, 224 pixels and pool5.
        blocks: one of BLOCKS.
    Source: FN2EN, section III-B. Padding, ceil mode and where the dropout stands are our reading.
    """

    def __init__(
        self,
        classes: int,
        *,
        input_px: int = 224,
        bridge_chw: tuple[int, int, int] | None = None,
        width: float = 1.0,
        hidden: int = 256,
        dropout: float = 0.5,
        batch_norm: bool = False,
        pool_to_tap: bool = False,
        blocks: str = "plain",
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes is {classes}, expected 2 or more")
        if blocks not in BLOCKS:
            raise ValueError(f"blocks is '{blocks}', expected one of {', '.join(BLOCKS)}")
        if input_px < 32:
            raise ValueError(f"input_px is {input_px}, expected 32 or more: five poolings leave nothing of less")
        channels = [max(1, round(c * width)) for c in CHANNELS]
        smallest, side = 1, input_px
        if pool_to_tap and bridge_chw:
            smallest = max(bridge_chw[1:])
            channels[-1] = max(
                channels[-1], bridge_chw[0] if smallest > 1 else 0
            )  # a vector has no map to be as deep as
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (incoming, outgoing) in enumerate(zip([3, *channels], channels, strict=False), start=1):
            layers[f"conv{number}"] = nn.Conv2d(incoming, outgoing, kernel_size=3, padding=1, bias=not batch_norm)
            if batch_norm:
                layers[f"bn{number}"] = nn.BatchNorm2d(outgoing)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if blocks == "residual" and number > 1:
                layers[f"residual{number}"] = Residual(outgoing, batch_norm=batch_norm)
            if side // 2 >= smallest:
                layers[f"pool{number}"] = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
                side //= 2  # kernel 3, stride 2, ceil mode
        self.convolutions = nn.Sequential(layers)
        self.bridge = Bridge((channels[-1], side, side), bridge_chw or (channels[-1], side, side))
        # A saved net is built again from these.
        self.arguments = {"input_px": input_px, "bridge_chw": self.bridge.out_chw, "width": width, "hidden": hidden}
        self.arguments |= {"dropout": dropout, "batch_norm": batch_norm, "pool_to_tap": pool_to_tap, "blocks": blocks}
        self.head = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                drop6=nn.Dropout(dropout),
                fc6=nn.Linear(math.prod(self.bridge.out_chw), hidden),
                relu6=nn.ReLU(inplace=True),
                drop7=nn.Dropout(dropout),
                scores=nn.Linear(hidden, classes),
            )
        )
        # He's normal distribution and a Gaussian (FN2EN, IV-A); the paper gives no deviation, 0.01 is Caffe's habit.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return O = h(g(I)), class scores before softmax (B, K), of normalised images (B, 3, H, W)."""
        scores: Tensor = self.head(self.bridge(self.convolutions(images)))
        return scores
