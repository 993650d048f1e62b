"""dlib's ResNet-29 for face recognition, read from dlib's own file and rebuilt in PyTorch.

The weights come with the PyPI package face-recognition-models, so this face net needs no download.

Source: Davis King, dlib_face_recognition_resnet_model_v1, https://github.com/davisking/dlib-models, and the
network definition in dlib's examples/dnn_face_recognition_ex.cpp.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo
from facenet2expnet.nets.face.weights import GENERATED, generated

PACKAGE = "face_recognition_models"
FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
INSTALL = 'pip install "facenet2expnet[facenet]"'
BEGINNING = b"\x01\x01\x01\x0dloss_metric_2"

INFO = FaceNetInfo(
    name="dlib-resnet29",
    input_px=150,
    mean_rgb=(122.782, 117.001, 104.298),
    scale=256.0,
    colour="rgb",
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
"""Name -> channels in, channels out, residual blocks, whether the first block halves the size."""


class AffineConv(nn.Module):
    """A convolution followed by dlib's affine layer: a scale and a shift for each channel.

    dlib turns batch norms into affine layers once a net is trained. The affine is folded into the convolution
    at every call, which costs less than a pass over the feature map and keeps all four parameters trainable.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.scale = nn.Parameter(torch.ones(channels_out))
        self.shift = nn.Parameter(torch.zeros(channels_out))
        self.stride, self.padding = stride, padding
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

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
        """(B, C, H, W) -> (B, C', H', W'); the sum is as large as the larger of its two parts."""
        residual = self.conv2(functional.relu(self.conv1(features)))
        shortcut = functional.avg_pool2d(features, 2) if self.halves else features
        return functional.relu(_padded_sum(residual, shortcut))


def _padded_sum(first: Tensor, second: Tensor) -> Tensor:
    """Add two (B, C, H, W) maps; where one is smaller it is filled with zeros at the far end of the axis."""
    if first.shape == second.shape:
        return first + second
    sizes = [max(a, b) for a, b in zip(first.shape, second.shape, strict=True)]

    def grown(part: Tensor) -> Tensor:
        missing = [size - own for size, own in zip(sizes, part.shape, strict=True)]
        if not any(missing):
            return part
        return functional.pad(part, (0, missing[3], 0, missing[2], 0, missing[1]))

    return grown(first) + grown(second)


class DlibResNet29(ChainFaceNet):
    """dlib's ResNet-29 (version 1): 29 convolutions and one fully connected layer, 128 numbers for a face."""

    info = INFO

    def __init__(self) -> None:
        super().__init__()
        self.stem = AffineConv(3, 32, 7, 2, 0)
        for name, (channels_in, channels_out, blocks, halves) in LEVELS.items():
            rest = [Block(channels_out, channels_out, halves=False) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(Block(channels_in, channels_out, halves), *rest))
        self.descriptor = nn.Linear(256, 128, bias=False)

    def step(self, name: str, features: Tensor) -> Tensor:
        """From the output of the tap before `name` to that of `name`."""
        if name == "stem":
            return functional.max_pool2d(functional.relu(self.stem(features)), 3, stride=2)
        if name == "pooled":
            return features.mean(dim=(2, 3))
        stepped: Tensor = self.get_submodule(name)(features)
        return stepped

    def convolutions(self) -> list[AffineConv]:
        """The 29 convolutions from the input to the output, the order in which dlib's file holds them."""
        return [module for module in self.modules() if isinstance(module, AffineConv)]


class _Reader:
    """Reads dlib's serialisation: a byte of sign and length before every integer, raw float32 in tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = path.read_bytes()
        self.position = 0

    def fault(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: expected dlib_face_recognition_resnet_model_v1.dat, {what} "
            f"(byte {self.position}); reinstall it with {INSTALL}"
        )

    def take(self, count: int) -> bytes:
        piece = self.content[self.position : self.position + count]
        if len(piece) < count:
            raise self.fault(
                f"but the file is cut short: it ends after {len(self.content)} bytes, while reading"
            )
        self.position += count
        return piece

    def integer(self) -> int:
        control = self.take(1)[0]
        size = control & 0x0F
        if size > 8 or control & 0x70:
            raise self.fault(f"but there is no integer (control byte {control:#04x})")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def seek(self, tag: str) -> None:
        """Go behind the next layer tag. Between layers stand only a few hundred bytes of training state."""
        name = tag.encode()
        pattern = bytes((1, len(name))) + name
        found = self.content.find(pattern, self.position, self.position + 4096)
        if found < 0:
            if self.position + 4096 > len(self.content):
                raise self.fault(f"but the file is cut short: it has no further layer '{tag}'")
            raise self.fault(f"but found no layer '{tag}'")
        self.position = found + len(pattern)

    def tensor(self, count: int) -> Tensor:
        """A tensor that must hold `count` numbers, flat, float32."""
        version, *shape = (self.integer() for _ in range(5))
        if version != 2 or int(np.prod(shape, dtype=np.int64)) != count:
            raise self.fault(f"but a tensor of shape {tuple(shape)} stands where {count} numbers belong")
        return torch.from_numpy(np.frombuffer(self.take(4 * count), dtype="<f4").astype(np.float32))


def read_dat(path: Path) -> DlibResNet29:
    """dlib's ResNet-29 with the weights of a .dat file, in training mode.

    Raises:
        UserError: If the file is missing, cut short, or not dlib's face recognition model.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; expected dlib_face_recognition_resnet_model_v1.dat, {INSTALL}"
        )
    reader = _Reader(path)
    if not reader.content.startswith(BEGINNING):
        raise UserError(
            f"{path}: expected dlib_face_recognition_resnet_model_v1.dat, found a file that does not begin "
            f"as one; name dlib's file, or leave the weights out to use the one of {INSTALL}"
        )
    with torch.device("meta"):
        net = DlibResNet29()
    net.to_empty(device="cpu")
    with torch.no_grad():
        for conv in net.convolutions():
            weights, channels = conv.weight.numel(), conv.bias.numel()
            reader.seek("con_4")
            numbers = reader.tensor(weights + channels)
            conv.weight.copy_(numbers[:weights].view_as(conv.weight))
            conv.bias.copy_(numbers[weights:])
            reader.seek("affine_")
            numbers = reader.tensor(2 * channels)
            conv.scale.copy_(numbers[:channels])
            conv.shift.copy_(numbers[channels:])
        reader.seek("fc_2")
        sizes = (reader.integer(), reader.integer())
        if sizes != (128, 256):
            raise reader.fault(
                f"but the last layer gives {sizes[0]} numbers from {sizes[1]}, not 128 from 256"
            )
        net.descriptor.weight.copy_(reader.tensor(256 * 128).view(256, 128).T)
    return net


def bundled_file() -> Path:
    """Where face-recognition-models keeps the weights; found by path, as its import needs pkg_resources.

    Raises:
        UserError: If the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"dlib-resnet29 needs the package face-recognition-models, which is not here; {INSTALL}"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


def load(weights: Path | None = None, name: str = "dlib-resnet29") -> DlibResNet29:
    """dlib's ResNet-29, in training mode.

    Args:
        weights: dlib's .dat file; None for the one of the package face-recognition-models; or "generated".
        name: as it was asked for; there is one such net.
    Raises:
        UserError: If the package or the file is missing, or the file is cut short or not dlib's.
    """
    if str(weights) == GENERATED:
        return generated(DlibResNet29)
    return read_dat(weights or bundled_file())
