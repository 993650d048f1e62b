"""The bridge: shapes, the first weights of the deconvolution, the affine."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from facenet2expnet.nets.bridge import Bridge, Deconvolution, as_chw


@pytest.mark.parametrize("out_chw", [(6, 2, 2), (6, 4, 4), (6, 3, 5), (6, 1, 1), (9, 7, 7)])
def test_a_map_is_brought_to_the_shape_of_the_face_nets_layer(out_chw: tuple[int, int, int]) -> None:
    bridge = Bridge((4, 2, 2), out_chw)
    found = bridge(torch.randn(3, 4, 2, 2))
    assert found.shape == (3, *out_chw)
    found.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in bridge.parameters())


def test_maps_of_one_size_need_a_1x1_convolution_only() -> None:
    bridge, maps = Bridge((4, 2, 2), (6, 2, 2)), torch.randn(3, 4, 2, 2)
    expected = torch.einsum("bkhw,ok->bohw", maps, bridge.conv.weight[:, :, 0, 0]) + bridge.conv.bias[:, None, None]
    torch.testing.assert_close(bridge(maps), expected)
    assert [name for name, _ in bridge.named_parameters()] == ["conv.weight", "conv.bias"]


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_deconvolution_begins_as_bilinear_upsampling(factor: int) -> None:
    maps = torch.rand(2, 3, 6, 6)
    found = Deconvolution(3, factor)(maps)
    expected = functional.interpolate(maps, scale_factor=factor, mode="bilinear")
    assert found.shape == expected.shape
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    assert torch.allclose(found[inner], expected[inner], atol=1e-6)


def test_the_affine_is_the_identity_until_it_is_set_and_is_not_learned() -> None:
    bridge, maps = Bridge((4, 2, 2), (6, 4, 4)), torch.randn(3, 4, 2, 2)
    before = bridge(maps)
    assert torch.equal(before, bridge.before_affine(maps))
    shift, scale = torch.randn(6, 4, 4), torch.rand(6, 1, 1) + 0.5
    bridge.set_affine(shift, scale)
    assert torch.equal(bridge.before_affine(maps), before)
    assert torch.allclose(bridge(maps), shift + scale * before)
    assert {name for name, _ in bridge.named_parameters()} == {
        *("conv.weight", "conv.bias", "resize.weight", "resize.bias")
    }
    saved = Bridge((4, 2, 2), (6, 4, 4))
    saved.load_state_dict(bridge.state_dict())
    assert torch.equal(saved(maps), bridge(maps))


def test_a_vector_is_a_map_of_one_position() -> None:
    assert as_chw((16,)) == (16, 1, 1)
    assert as_chw((16, 7, 5)) == (16, 7, 5)
