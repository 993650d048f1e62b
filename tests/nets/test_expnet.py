"""The expression net: the paper's shapes and weight count, every parameter learning, any face net's layer matched."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from facenet2expnet.nets.bridge import Bridge, Deconvolution
from facenet2expnet.nets.classifier import ExpressionClassifier
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
    assert net.features(torch.zeros(1, 3, input_px, input_px)).shape == (1, *chw)
    assert net(torch.zeros(1, 3, input_px, input_px)).shape == (1, 3)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_gets_a_gradient(batch_norm: bool) -> None:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=64, bridge_chw=(16, 8, 8), width=0.1, hidden=16, batch_norm=batch_norm)
    functional.cross_entropy(net(torch.randn(8, 3, 64, 64)), torch.arange(8) % 3).backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert any("bn1" in name for name, _ in net.named_parameters()) == batch_norm


def test_golden_output() -> None:
    torch.manual_seed(0)
    net = ExpNet(4, input_px=32, width=0.1, hidden=8).eval()
    scores = net(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))[0]
    assert scores.tolist() == pytest.approx(GOLDEN, rel=1e-3)


def test_impossible_nets_are_refused() -> None:
    with pytest.raises(ValueError, match="classes is 1, expected 2 or more"):
        ExpNet(1)
    with pytest.raises(ValueError, match="input_px is 31, expected 32 or more"):
        ExpNet(2, input_px=31)
    with pytest.raises(ValueError, match=r"bridge_chw is .* expected three positive numbers"):
        ExpNet(2, bridge_chw=(8, 0, 8))


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_deconvolution_begins_as_bilinear_upsampling(factor: int) -> None:
    maps = torch.rand(2, 3, 6, 6)
    found = Deconvolution(3, factor)(maps)
    expected = functional.interpolate(maps, scale_factor=factor, mode="bilinear")
    assert found.shape == expected.shape
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    assert torch.allclose(found[inner], expected[inner], atol=1e-6)


def test_bridge_affine_is_the_identity_until_set() -> None:
    bridge = Bridge((4, 2, 2), (6, 4, 4))
    maps = torch.randn(3, 4, 2, 2)
    plain = bridge(maps)
    assert torch.equal(plain, bridge.resize(bridge.conv(maps)))
    shift, scale = torch.randn(6, 4, 4), torch.rand(6, 4, 4) + 0.5
    bridge.set_affine(shift, scale)
    assert torch.allclose(bridge(maps), shift + scale * plain)
    assert {name for name, _ in bridge.named_parameters()} == {
        "conv.weight",
        "conv.bias",
        "resize.weight",
        "resize.bias",
    }


@pytest.mark.parametrize("out_chw", [(6, 2, 2), (6, 4, 4), (6, 3, 3), (6, 1, 1)])
def test_turning_a_bridge_multiplies_its_channels(out_chw: tuple[int, int, int]) -> None:
    bridge = Bridge((4, 2, 2), out_chw)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.normal_()
    maps = torch.randn(3, 4, 2, 2)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    expected = torch.einsum("dc,bchw->bdhw", rotation, bridge(maps))
    bridge.turn(rotation)
    torch.testing.assert_close(bridge(maps), expected, rtol=1e-4, atol=1e-4)


def test_classifier_normalises_pixels() -> None:
    net = ExpNet(3, input_px=32, width=0.1, hidden=8).eval()
    classifier = ExpressionClassifier(net, (100.0, 110.0, 120.0), 50.0).eval()
    crops = torch.rand(2, 3, 32, 32) * 255
    means = torch.tensor([100.0, 110.0, 120.0]).view(1, 3, 1, 1)
    assert torch.allclose(classifier(crops), net((crops - means) / 50))
