"""IResNet-18, -34, -50 and -100: the residual nets of ArcFace, with insightface's layer names.

Source: J. Deng et al., ArcFace, CVPR 2019; deepinsight/insightface, recognition/arcface_torch, whose backbone.pth
files these nets read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated, load_into, read_weights

BLOCKS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}


def info(name: str) -> FaceNetInfo:
    """Return the metadata of an IResNet; the four differ only in depth."""
    return FaceNetInfo(
        name=name,
        input_px=112,
        mean_rgb=(127.5, 127.5, 127.5),
        scale=127.5,
        taps={
            "stem": (64, 112, 112),
            "layer1": (64, 56, 56),
            "layer2": (128, 28, 28),
            "layer3": (256, 14, 14),
            "layer4": (512, 7, 7),
            "embedding": (512,),
        },
        embedding="embedding",
        default_tap="layer4",
        licence="of the file; insightface's own are for research only",
        source="https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch",
    )


class Block(nn.Module):
    """Norm, convolution, norm, PReLU, convolution (may halve the size), norm; plus the shortcut, without ReLU."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        residual = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        shortcut = features if self.downsample is None else self.downsample(features)
        return self.bn3(self.conv2(residual)) + shortcut


class IResNet(ChainFaceNet):
    """An IResNet: a 3x3 stem without stride, four groups of residual blocks, 512 numbers for each face."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.info = info(name)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        channels = 64
        for number, (width, count) in enumerate(zip((64, 128, 256, 512), BLOCKS[name], strict=True), 1):
            rest = [Block(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(Block(channels, width, 2), *rest))
            channels = width
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.norm = nn.BatchNorm1d(512)  # "features" in insightface's files

    def step(self, name: str, features: Tensor) -> Tensor:
        """Compute tap `name` from the tap before it."""
        if name == "stem":
            return self.prelu(self.bn1(self.conv1(features)))
        if name == "embedding":
            return self.norm(self.fc(self.bn2(features).flatten(1)))
        return super().step(name, features)


def check_depth(state: Mapping[str, Tensor], weights: Path | None, name: str) -> None:
    """Raise a UserError if the weights are those of an IResNet of another depth."""
    blocks = {(int(m[1]), int(m[2])) for key in state if (m := re.match(r"layer([1-4])\.(\d+)\.", key))}
    found = tuple(sum(layer == number for layer, _ in blocks) for number in range(1, 5))
    if not all(found) or found == BLOCKS[name]:
        return
    other = next((known for known, counts in BLOCKS.items() if counts == found), "")
    shown = ", ".join(map(str, found))
    raise UserError(
        f"{weights}: expected the weights of {name}, got those of "
        + (
            f"{other}; name that face net"
            if other
            else f"another depth, with {shown} blocks; there are {', '.join(BLOCKS)}"
        )
    )


def load(weights: Path | None, name: str) -> IResNet:
    """Load an IResNet, in training mode."""
    if str(weights) == GENERATED:
        return generated(lambda: IResNet(name))
    state = read_weights(weights, info(name))
    renamed = {re.sub(r"^features\.", "norm.", key): value for key, value in state.items()}
    check_depth(renamed, weights, name)
    return load_into(lambda: IResNet(name), renamed, weights, name)
