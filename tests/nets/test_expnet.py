"""The expression net: the paper's shapes and number of weights, gradients, any face net's layer matched."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from facenet2expnet.nets.expnet import ExpNet

GOLDEN = [-0.00070616, -0.00200998, -0.00208548, -0.00056635]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_net_has_10_6_million_weights() -> None:
    with torch.device("meta"):
        net = ExpNet(8)
    convolutions = sum(o * (9 * i + 1) for i, o in ((3, 64), (64, 128), (128, 256), (256, 512), (512, 512)))
    head = 512 * 7 * 7 * 256 + 256 + 256 * 8 + 8
    assert parameters(net) == convolutions + 512 * 513 + head == 10_598_280


def test_the_papers_maps_halve_from_224_to_7() -> None:
    net, sides = ExpNet(8, width=0.05), []
    maps = torch.zeros(1, 3, 224, 224)
    for name, layer in net.convolutions.named_children():
        maps = layer(maps)
        if name.startswith("pool"):
            sides.append(maps.shape[-1])
            assert layer.kernel_size == 3
            assert layer.stride == 2
    assert sides == [112, 56, 28, 14, 7]
    assert ExpNet(8).convolutions.conv5.out_channels == 512
    assert net(torch.zeros(2, 3, 224, 224)).shape == (2, 8)


@pytest.mark.parametrize("input_px", [32, 48, 64, 75, 100])
@pytest.mark.parametrize("chw", [(256, 4, 4), (128, 8, 8), (10, 3, 5), (16, 1, 1), (7, 17, 17)])
def test_any_layer_is_matched_at_any_size(input_px: int, chw: tuple[int, int, int]) -> None:
    net = ExpNet(3, input_px=input_px, bridge_chw=chw, width=0.1, hidden=8)
    assert net.bridge(net.convolutions(torch.zeros(1, 3, input_px, input_px))).shape == (1, *chw)
    assert net(torch.zeros(1, 3, input_px, input_px)).shape == (1, 3)


@pytest.mark.parametrize(
    ("input_px", "chw", "pools"),
    [(224, (512, 7, 7), 5), (64, (256, 4, 4), 4), (64, (128, 8, 8), 3), (64, (8, 80, 80), 0)],
)
def test_pooling_stops_at_the_size_of_the_tap(input_px: int, chw: tuple[int, int, int], pools: int) -> None:
    net = ExpNet(3, input_px=input_px, bridge_chw=chw, width=0.25, pool_to_tap=True).eval()
    assert sum(isinstance(module, nn.MaxPool2d) for module in net.modules()) == pools
    assert net.convolutions.conv5.out_channels == max(128, chw[0])
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in net.modules()) or chw[1] > input_px
    assert net.bridge(net.convolutions(torch.zeros(1, 3, input_px, input_px))).shape == (1, *chw)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_receives_a_gradient(batch_norm: bool) -> None:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=64, bridge_chw=(16, 8, 8), width=0.1, hidden=16, batch_norm=batch_norm)
    functional.cross_entropy(net(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert net.arguments["batch_norm"] == batch_norm
    assert any("bn1" in name for name, _ in net.named_parameters()) == batch_norm


def test_golden_output() -> None:
    torch.manual_seed(0)
    net = ExpNet(4, input_px=32, width=0.1, hidden=8).eval()
    scores = net(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))[0]
    assert scores.tolist() == pytest.approx(GOLDEN, rel=1e-3)


def test_the_arguments_build_the_same_net_again() -> None:
    net = ExpNet(3, input_px=48, bridge_chw=(16, 8, 8), width=0.1, hidden=8, dropout=0.2, batch_norm=True).eval()
    again = ExpNet(3, **net.arguments).eval()
    again.load_state_dict(net.state_dict())
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(again(images), net(images))
    assert again.head.drop6.p == 0.2


def test_weights_begin_as_in_the_paper() -> None:
    """He's normal distribution for convolutions, a Gaussian of 0.01 for fully connected layers, biases 0."""
    torch.manual_seed(0)
    net = ExpNet(8, input_px=64, width=0.5)
    conv5 = net.convolutions.conv5
    assert conv5.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert net.head.fc6.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not any(value.any() for name, value in net.named_parameters() if name.endswith("bias"))


def test_impossible_nets_are_refused() -> None:
    with pytest.raises(ValueError, match="classes is 1, expected 2 or more"):
        ExpNet(1)
    with pytest.raises(ValueError, match="input_px is 31, expected 32 or more"):
        ExpNet(2, input_px=31)
