"""Inception-ResNet v1: published counts and shapes, facenet-pytorch's names, and its blocks recomputed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face.inception_resnet import InceptionResnetV1

PUBLISHED = 27_910_327
"""Parameters of facenet-pytorch's vggface2 net, its classifier over 8,631 identities included."""
IDENTITIES = 8631


def facenet_pytorch_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of 20180402-114759-vggface2.pt, from the architecture's table."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, channels: int, width: int, kernel: tuple[int, int]) -> None:
        shapes[f"{name}.conv.weight"] = (width, channels, *kernel)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{kind}"] = (width,)
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    def chain(name: str, channels: int, *layers: tuple[int, tuple[int, int]]) -> None:
        for number, (width, kernel) in enumerate(layers):
            conv(f"{name}.{number}", channels, width, kernel)
            channels = width

    one, three = (1, 1), (3, 3)
    for name, channels, width, kernel in (
        ("conv2d_1a", 3, 32, three),
        ("conv2d_2a", 32, 32, three),
        ("conv2d_2b", 32, 64, three),
        ("conv2d_3b", 64, 80, one),
        ("conv2d_4a", 80, 192, three),
        ("conv2d_4b", 192, 256, three),
    ):
        conv(name, channels, width, kernel)
    for number in range(5):
        conv(f"repeat_1.{number}.branch0", 256, 32, one)
        chain(f"repeat_1.{number}.branch1", 256, (32, one), (32, three))
        chain(f"repeat_1.{number}.branch2", 256, (32, one), (32, three), (32, three))
        shapes |= {
            f"repeat_1.{number}.conv2d.weight": (256, 96, 1, 1),
            f"repeat_1.{number}.conv2d.bias": (256,),
        }
    conv("mixed_6a.branch0", 256, 384, three)
    chain("mixed_6a.branch1", 256, (192, one), (192, three), (256, three))
    for number in range(10):
        conv(f"repeat_2.{number}.branch0", 896, 128, one)
        chain(f"repeat_2.{number}.branch1", 896, (128, one), (128, (1, 7)), (128, (7, 1)))
        shapes |= {
            f"repeat_2.{number}.conv2d.weight": (896, 256, 1, 1),
            f"repeat_2.{number}.conv2d.bias": (896,),
        }
    chain("mixed_7a.branch0", 896, (256, one), (384, three))
    chain("mixed_7a.branch1", 896, (256, one), (256, three))
    chain("mixed_7a.branch2", 896, (256, one), (256, three), (256, three))
    for block in (*(f"repeat_3.{number}" for number in range(5)), "block8"):
        conv(f"{block}.branch0", 1792, 192, one)
        chain(f"{block}.branch1", 1792, (192, one), (192, (1, 3)), (192, (3, 1)))
        shapes |= {f"{block}.conv2d.weight": (1792, 384, 1, 1), f"{block}.conv2d.bias": (1792,)}
    shapes["last_linear.weight"] = (512, 1792)
    for kind in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"last_bn.{kind}"] = (512,)
    shapes["last_bn.num_batches_tracked"] = ()
    return shapes | {"logits.weight": (IDENTITIES, 512), "logits.bias": (IDENTITIES,)}


def stored() -> dict[str, Tensor]:
    return {
        name: torch.tensor(7) if name.endswith("tracked") else torch.tensor(0.25).expand(shape)
        for name, shape in facenet_pytorch_shapes().items()
    }


def test_published_counts_and_shapes() -> None:
    with torch.device("meta"):
        net = InceptionResnetV1().eval()
        outputs = net(torch.zeros(1, 3, 160, 160), list(net.info.taps))
    classifier = IDENTITIES * 512 + IDENTITIES
    assert sum(parameter.numel() for parameter in net.parameters()) == PUBLISHED - classifier == 23_482_624
    assert {name: tuple(value.shape[1:]) for name, value in outputs.items()} == net.info.taps
    assert net.info.taps["repeat_2"] == (896, 8, 8)


def test_reads_facenet_pytorch_files(tmp_path: Path) -> None:
    torch.save(stored(), tmp_path / "vggface2.pt")
    net = face.load("inception-resnet-v1", tmp_path / "vggface2.pt")
    expected = {
        name: shape for name, shape in facenet_pytorch_shapes().items() if not name.startswith("logits")
    }
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == expected
    assert not net.training


def test_file_of_another_net_is_told_by_name(tmp_path: Path) -> None:
    torch.save(stored(), tmp_path / "vggface2.pt")
    with pytest.raises(
        UserError, match="these look like those of inception-resnet-v1; ask for that face net"
    ):
        face.load("iresnet50", tmp_path / "vggface2.pt")


class Reference:
    """The net's blocks written out from facenet-pytorch's description, apart from the code under test."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, name: str, values: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> Tensor:
        state = self.state
        values = functional.conv2d(values, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, variance = (state[f"{name}.bn.running_{kind}"].view(1, -1, 1, 1) for kind in ("mean", "var"))
        weight, bias = (state[f"{name}.bn.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
        return ((values - mean) / (variance + 0.001).sqrt() * weight + bias).clamp(min=0)

    def residual(self, name: str, values: Tensor, parts: list[Tensor], scale: float) -> Tensor:
        joined = functional.conv2d(
            torch.cat(parts, 1), self.state[f"{name}.conv2d.weight"], self.state[f"{name}.conv2d.bias"]
        )
        return joined * scale + values

    def block(self, name: str, values: Tensor, scale: float, pads: tuple[tuple[int, int], ...]) -> Tensor:
        """Block17 and Block8: a 1x1 branch, and a 1x1, 1xN, Nx1 one."""
        long = self.conv(f"{name}.branch1.0", values)
        long = self.conv(f"{name}.branch1.1", long, padding=pads[0])
        long = self.conv(f"{name}.branch1.2", long, padding=pads[1])
        return self.residual(name, values, [self.conv(f"{name}.branch0", values), long], scale)

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        conv, one, outputs = self.conv, (1, 1), {}
        x = conv("conv2d_2b", conv("conv2d_2a", conv("conv2d_1a", x, 2)), padding=one)
        outputs["conv2d_2b"] = x
        x = conv("conv2d_4a", conv("conv2d_3b", functional.max_pool2d(x, 3, 2)))
        outputs["conv2d_4b"] = x = conv("conv2d_4b", x, 2)
        for number in range(5):
            name = f"repeat_1.{number}"
            second = conv(f"{name}.branch1.1", conv(f"{name}.branch1.0", x), padding=one)
            third = conv(f"{name}.branch2.1", conv(f"{name}.branch2.0", x), padding=one)
            third = conv(f"{name}.branch2.2", third, padding=one)
            x = self.residual(name, x, [conv(f"{name}.branch0", x), second, third], 0.17).clamp(min=0)
        outputs["repeat_1"] = x
        second = conv("mixed_6a.branch1.1", conv("mixed_6a.branch1.0", x), padding=one)
        parts = [conv("mixed_6a.branch0", x, 2), conv("mixed_6a.branch1.2", second, 2)]
        outputs["mixed_6a"] = x = torch.cat([*parts, functional.max_pool2d(x, 3, 2)], 1)
        for number in range(10):
            x = self.block(f"repeat_2.{number}", x, 0.10, ((0, 3), (3, 0))).clamp(min=0)
        outputs["repeat_2"] = x
        third = conv("mixed_7a.branch2.1", conv("mixed_7a.branch2.0", x), padding=one)
        parts = [conv(f"mixed_7a.branch{k}.1", conv(f"mixed_7a.branch{k}.0", x), 2) for k in (0, 1)]
        parts += [conv("mixed_7a.branch2.2", third, 2), functional.max_pool2d(x, 3, 2)]
        outputs["mixed_7a"] = x = torch.cat(parts, 1)
        for number in range(5):
            x = self.block(f"repeat_3.{number}", x, 0.20, ((0, 1), (1, 0))).clamp(min=0)
        outputs["block8"] = x = self.block("block8", x, 1.0, ((0, 1), (1, 0)))
        outputs["pooled"] = x = x.mean((2, 3))
        state = self.state
        x = x @ state["last_linear.weight"].T
        x = (x - state["last_bn.running_mean"]) / (state["last_bn.running_var"] + 0.001).sqrt()
        outputs["embedding"] = x * state["last_bn.weight"] + state["last_bn.bias"]
        return outputs


def test_computes_what_facenet_pytorch_describes() -> None:
    net = face.load("inception-resnet-v1", face.GENERATED)
    generator = torch.Generator().manual_seed(1)
    for name, value in net.state_dict().items():
        if value.ndim == 1:
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.2, 0.2)
            value.uniform_(low, high, generator=generator)
    crops = torch.randint(0, 256, (2, 3, 160, 160), generator=generator).float()
    with torch.no_grad():
        ours = net(crops, list(net.info.taps))
        expected = Reference(dict(net.state_dict()))((crops - 127.5) / 128)
    assert set(expected) == set(ours)
    for tap, value in ours.items():
        torch.testing.assert_close(
            value, expected[tap], rtol=1e-3, atol=1e-4 * expected[tap].abs().max().item()
        )


def test_every_parameter_receives_a_gradient() -> None:
    net = face.load("inception-resnet-v1", face.GENERATED).train()
    net(torch.rand(2, 3, 160, 160) * 255, ["embedding"])["embedding"].square().sum().backward()
    assert [name for name, value in net.named_parameters() if value.grad is None] == []
