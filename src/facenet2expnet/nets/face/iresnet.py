"""IResNet-18, -34, -50 and -100: the residual nets of ArcFace, with the names of insightface's weights.

Source: J. Deng et al., ArcFace, CVPR 2019; deepinsight/insightface, recognition/arcface_torch, whose backbone.pth
files these nets read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated, load_into, read_state_dict

BLOCKS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)
EMBEDDING = 512


def info(name: str) -> FaceNetInfo:
    """What the IResNet of a name is and expects; the four differ in depth alone."""
    return FaceNetInfo(
        name=name,
        input_px=112,
        mean_rgb=(127.5, 127.5, 127.5),
        scale=127.5,
        colour="rgb",
        taps={
            "stem": (64, 112, 112),
            "layer1": (64, 56, 56),
            "layer2": (128, 28, 28),
            "layer3": (256, 14, 14),
            "layer4": (512, 7, 7),
            "embedding": (EMBEDDING,),
        },
        embedding="embedding",
        default_tap="layer4",
        licence="of the file; insightface's own are for research only",
        source="https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch",
    )


class Block(nn.Module):
    """Norm, convolution, norm, PReLU, convolution (which may halve the size), norm; plus the shortcut, no ReLU."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            if stride != 1 or channels != width
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        residual = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        shortcut = features if self.downsample is None else self.downsample(features)
        total: Tensor = self.bn3(self.conv2(residual)) + shortcut
        return total


class IResNet(ChainFaceNet):
    """An IResNet: a 3x3 stem without stride, four groups of residual blocks, 512 numbers for a face.

    Args:
        name: a key of `BLOCKS`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.info = info(name)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        channels = 64
        for number, (width, count) in enumerate(zip(WIDTHS, BLOCKS[name], strict=True), start=1):
            rest = [Block(width, width, 1) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(Block(channels, width, 2), *rest))
            channels = width
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, EMBEDDING)
        self.norm = nn.BatchNorm1d(EMBEDDING)  # "features" in insightface's files

    def step(self, name: str, features: Tensor) -> Tensor:
        """From the output of the tap before `name` to that of `name`."""
        stepped: Tensor
        if name == "stem":
            stepped = self.prelu(self.bn1(self.conv1(features)))
        elif name == "embedding":
            stepped = self.norm(self.fc(self.bn2(features).flatten(1)))
        else:
            stepped = self.get_submodule(name)(features)
        return stepped


def load(weights: Path | None = None, name: str = "iresnet50") -> IResNet:
    """An IResNet from a weights file of insightface's arcface_torch, in training mode.

    Args:
        weights: a .pth, .pt or .safetensors file, or "generated".
        name: iresnet18, iresnet34, iresnet50 or iresnet100.
    Raises:
        UserError: If no file is given, or it is not that net's.
    """
    if weights is None:
        raise UserError(
            f"{name} brings no weights: give the path of insightface's backbone.pth of that depth, "
            "hf:owner/name/file, or https://…#sha256=HEX"
        )
    if str(weights) == GENERATED:
        return generated(lambda: IResNet(name))
    state = {
        ("norm." + key.removeprefix("features.") if key.startswith("features.") else key): value
        for key, value in read_state_dict(weights).items()
    }
    with torch.device("meta"):
        net = IResNet(name)
    load_into(net, state, str(weights), name)
    return net
