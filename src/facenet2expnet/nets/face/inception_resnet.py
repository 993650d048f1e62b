"""Inception-ResNet v1 of FaceNet, with facenet-pytorch's layer names.

facenet-pytorch itself is not used because it requires old releases of PyTorch and torchvision.

Source: C. Szegedy et al., Inception-v4, Inception-ResNet, AAAI 2017; D. Sandberg's FaceNet; timesler/facenet-pytorch,
models/inception_resnet_v1.py (MIT), whose vggface2 and casia-webface files this net reads.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated, load_into, read_weights

INFO = FaceNetInfo(
    name="inception-resnet-v1",
    input_px=160,
    mean_rgb=(127.5, 127.5, 127.5),
    scale=128.0,
    taps={
        "conv2d_2b": (64, 77, 77),
        "conv2d_4b": (256, 17, 17),
        "repeat_1": (256, 17, 17),
        "mixed_6a": (896, 8, 8),
        "repeat_2": (896, 8, 8),
        "mixed_7a": (1792, 3, 3),
        "block8": (1792, 3, 3),
        "pooled": (1792,),
        "embedding": (512,),
    },
    embedding="pooled",
    default_tap="repeat_2",
    licence="MIT (the weights follow VGGFace2's or CASIA-WebFace's terms)",
    source="https://github.com/timesler/facenet-pytorch",
)

Size = int | tuple[int, int]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return functional.relu(self.bn(self.conv(features)))


class Branches(nn.Module):
    """Parallel branches over one input, concatenated along the channels; their names are branch0, branch1, …"""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        outputs = [child(features) for name, child in self.named_children() if name.startswith("branch")]
        return torch.cat(outputs, dim=1)


class Residual(Branches):
    """relu(x + scale * conv(branches(x))); the last block of the net has no ReLU."""

    def __init__(self, channels: int, joined: int, scale: float, relu: bool, *branches: nn.Module) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale, self.relu = scale, relu

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        total = features + self.scale * self.conv2d(super().forward(features))
        return functional.relu(total) if self.relu else total


def _block35() -> Residual:
    middle = nn.Sequential(ConvNorm(256, 32, 1), ConvNorm(32, 32, 3, padding=1))
    long = nn.Sequential(ConvNorm(256, 32, 1), ConvNorm(32, 32, 3, padding=1), ConvNorm(32, 32, 3, padding=1))
    return Residual(256, 96, 0.17, True, ConvNorm(256, 32, 1), middle, long)


def _block_1xn(channels: int, width: int, n: int, scale: float, relu: bool = True) -> Residual:
    """Block17 (n = 7) and Block8 (n = 3): a 1x1 branch beside one of 1x1, 1xn and nx1."""
    long = nn.Sequential(
        ConvNorm(channels, width, 1),
        ConvNorm(width, width, (1, n), padding=(0, n // 2)),
        ConvNorm(width, width, (n, 1), padding=(n // 2, 0)),
    )
    return Residual(channels, 2 * width, scale, relu, ConvNorm(channels, width, 1), long)


class InceptionResnetV1(ChainFaceNet):
    """Inception-ResNet v1: 512 numbers for each face. `embedding` is read before it is normalised to length 1.

    The classifier of identities ("logits" in the files) is left out.
    """

    info = INFO

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = ConvNorm(3, 32, 3, 2)
        self.conv2d_2a = ConvNorm(32, 32, 3)
        self.conv2d_2b = ConvNorm(32, 64, 3, padding=1)
        self.conv2d_3b = ConvNorm(64, 80, 1)
        self.conv2d_4a = ConvNorm(80, 192, 3)
        self.conv2d_4b = ConvNorm(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = Branches(
            ConvNorm(256, 384, 3, 2),
            nn.Sequential(ConvNorm(256, 192, 1), ConvNorm(192, 192, 3, padding=1), ConvNorm(192, 256, 3, 2)),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_2 = nn.Sequential(*(_block_1xn(896, 128, 7, 0.10) for _ in range(10)))
        self.mixed_7a = Branches(
            nn.Sequential(ConvNorm(896, 256, 1), ConvNorm(256, 384, 3, 2)),
            nn.Sequential(ConvNorm(896, 256, 1), ConvNorm(256, 256, 3, 2)),
            nn.Sequential(ConvNorm(896, 256, 1), ConvNorm(256, 256, 3, padding=1), ConvNorm(256, 256, 3, 2)),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_3 = nn.Sequential(*(_block_1xn(1792, 192, 3, 0.20) for _ in range(5)))
        self.block8 = _block_1xn(1792, 192, 3, 1.0, relu=False)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)

    def step(self, name: str, features: Tensor) -> Tensor:
        """Compute tap `name` from the tap before it; dropout 0.6 before the last layer."""
        if name == "conv2d_2b":
            return self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(features)))
        if name == "conv2d_4b":
            pooled = functional.max_pool2d(features, 3, stride=2)
            return self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(pooled)))
        if name == "block8":
            return self.block8(self.repeat_3(features))
        if name == "embedding":
            return self.last_bn(self.last_linear(functional.dropout(features, 0.6, self.training)))
        return super().step(name, features)


def load(weights: Path | None, name: str) -> InceptionResnetV1:
    """Load Inception-ResNet v1, in training mode."""
    if str(weights) == GENERATED:
        return generated(InceptionResnetV1)
    state = read_weights(weights, INFO)
    kept = {key: value for key, value in state.items() if not key.startswith("logits.")}
    return load_into(InceptionResnetV1, kept, weights, name)
