"""Inception-ResNet v1 of FaceNet, with the names of facenet-pytorch's weights.

Written anew because facenet-pytorch ties its users to old releases of PyTorch and torchvision.

Source: C. Szegedy et al., Inception-v4, Inception-ResNet, AAAI 2017; D. Sandberg's FaceNet; timesler/facenet-pytorch,
models/inception_resnet_v1.py (MIT), whose vggface2 and casia-webface files this net reads.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated, load_into, read_state_dict

INFO = FaceNetInfo(
    name="inception-resnet-v1",
    input_px=160,
    mean_rgb=(127.5, 127.5, 127.5),
    scale=128.0,
    colour="rgb",
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


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return functional.relu(self.bn(self.conv(features)))


class Branches(nn.Module):
    """Parallel branches over one input, joined along the channels. They are called branch0, branch1, …"""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def joined(self, features: Tensor) -> Tensor:
        """The outputs of all branches, side by side."""
        outputs = [child(features) for name, child in self.named_children() if name.startswith("branch")]
        return torch.cat(outputs, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.joined(features)


class Residual(Branches):
    """relu(x + scale * conv(branches(x))); the net's very last block leaves the ReLU out."""

    def __init__(self, channels: int, joined: int, scale: float, relu: bool, *branches: nn.Module) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale, self.relu = scale, relu

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        total = features + self.scale * self.conv2d(self.joined(features))
        return functional.relu(total) if self.relu else total


def _block35() -> Residual:
    return Residual(
        256,
        96,
        0.17,
        True,
        ConvNorm(256, 32, 1),
        nn.Sequential(ConvNorm(256, 32, 1), ConvNorm(32, 32, 3, padding=1)),
        nn.Sequential(ConvNorm(256, 32, 1), ConvNorm(32, 32, 3, padding=1), ConvNorm(32, 32, 3, padding=1)),
    )


def _block17() -> Residual:
    long = (
        ConvNorm(896, 128, 1),
        ConvNorm(128, 128, (1, 7), padding=(0, 3)),
        ConvNorm(128, 128, (7, 1), padding=(3, 0)),
    )
    return Residual(896, 256, 0.10, True, ConvNorm(896, 128, 1), nn.Sequential(*long))


def _block8(scale: float = 0.20, relu: bool = True) -> Residual:
    long = (
        ConvNorm(1792, 192, 1),
        ConvNorm(192, 192, (1, 3), padding=(0, 1)),
        ConvNorm(192, 192, (3, 1), padding=(1, 0)),
    )
    return Residual(1792, 384, scale, relu, ConvNorm(1792, 192, 1), nn.Sequential(*long))


def _mixed_6a() -> Branches:
    return Branches(
        ConvNorm(256, 384, 3, 2),
        nn.Sequential(ConvNorm(256, 192, 1), ConvNorm(192, 192, 3, padding=1), ConvNorm(192, 256, 3, 2)),
        nn.MaxPool2d(3, stride=2),
    )


def _mixed_7a() -> Branches:
    return Branches(
        nn.Sequential(ConvNorm(896, 256, 1), ConvNorm(256, 384, 3, 2)),
        nn.Sequential(ConvNorm(896, 256, 1), ConvNorm(256, 256, 3, 2)),
        nn.Sequential(ConvNorm(896, 256, 1), ConvNorm(256, 256, 3, padding=1), ConvNorm(256, 256, 3, 2)),
        nn.MaxPool2d(3, stride=2),
    )


class InceptionResnetV1(ChainFaceNet):
    """Inception-ResNet v1, 512 numbers for a face. `embedding` is read before it is brought to length 1.

    The classifier over identities ("logits" in the files) is left out.
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
        self.mixed_6a = _mixed_6a()
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _mixed_7a()
        self.repeat_3 = nn.Sequential(*(_block8() for _ in range(5)))
        self.block8 = _block8(scale=1.0, relu=False)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)

    def step(self, name: str, features: Tensor) -> Tensor:
        """From the output of the tap before `name` to that of `name`; dropout 0.6 before the last layer."""
        stepped: Tensor
        if name == "conv2d_2b":
            stepped = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(features)))
        elif name == "conv2d_4b":
            pooled = functional.max_pool2d(features, 3, stride=2)
            stepped = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(pooled)))
        elif name == "block8":
            stepped = self.block8(self.repeat_3(features))
        elif name == "pooled":
            stepped = features.mean(dim=(2, 3))
        elif name == "embedding":
            stepped = self.last_bn(self.last_linear(functional.dropout(features, 0.6, self.training)))
        else:
            stepped = self.get_submodule(name)(features)
        return stepped


def load(weights: Path | None = None, name: str = "inception-resnet-v1") -> InceptionResnetV1:
    """Inception-ResNet v1 from a weights file of facenet-pytorch, in training mode.

    Args:
        weights: a .pt, .pth or .safetensors file, or "generated".
        name: as it was asked for; there is one such net.
    Raises:
        UserError: If no file is given, or it is not this net's.
    """
    if weights is None:
        raise UserError(
            f"{name} brings no weights: give the path of facenet-pytorch's 20180402-114759-vggface2.pt or "
            "20180408-102900-casia-webface.pt, hf:owner/name/file, or https://…#sha256=HEX"
        )
    if str(weights) == GENERATED:
        return generated(InceptionResnetV1)
    state = {key: value for key, value in read_state_dict(weights).items() if not key.startswith("logits.")}
    with torch.device("meta"):
        net = InceptionResnetV1()
    load_into(net, state, str(weights), name)
    return net
