"""Inception-ResNet v1: facenet-pytorch's files and its blocks recomputed."""

from __future__ import annotations

from pathlib import Path

import torch
from checks import assert_taps_agree, with_random_norms
from torch import Tensor
from torch.nn import functional

from facenet2expnet.nets import face


def test_reads_facenet_pytorch_files(tmp_path: Path) -> None:
    expected = face.load("inception-resnet-v1", face.GENERATED)
    classifier = {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    torch.save(expected.state_dict() | classifier, tmp_path / "vggface2.pt")
    net = face.load("inception-resnet-v1", tmp_path / "vggface2.pt")
    assert face.weights_sha256(net) == face.weights_sha256(expected)
    assert not net.training


class Reference:
    """The net computed from facenet-pytorch's description and layer names, independent of the code under test."""

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


def test_agrees_with_facenet_pytorchs_description() -> None:
    net = with_random_norms("inception-resnet-v1")
    crops = torch.randint(0, 256, (2, 3, 160, 160), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = Reference(dict(net.state_dict()))((crops - 127.5) / 128)
        assert_taps_agree(net(crops, list(net.info.taps)), expected)
