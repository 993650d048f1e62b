"""The base of all face nets: preprocessing, freezing, batch norms that keep their statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo, rest_frozen_norms, weights_sha256


class Small(ChainFaceNet):
    """Convolutions, batch norms and dropout."""

    def __init__(self, colour: str = "rgb") -> None:
        super().__init__()
        self.info = FaceNetInfo(
            name="small",
            input_px=8,
            mean_rgb=(10.0, 20.0, 30.0),
            scale=2.0,
            colour=colour,
            taps={"first": (4, 8, 8), "second": (4, 8, 8)},
            embedding="second",
            default_tap="first",
            licence="none",
            source="here",
        )
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.norm2 = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)

    def step(self, name: str, features: Tensor) -> Tensor:
        if name == "first":
            return self.norm(self.conv(features))
        return self.dropout(self.norm2(self.conv2(features)))


def test_only_the_frozen_batch_norm_keeps_its_statistics() -> None:
    net = Small()
    net.norm.requires_grad_(False)
    rest_frozen_norms(net.train())
    net(torch.rand(4, 3, 8, 8) * 255, ["second"])
    assert (net.norm.training, net.norm2.training) == (False, True)
    assert torch.equal(net.norm.running_mean, torch.zeros(4))
    assert not torch.equal(net.norm2.running_mean, torch.zeros(4))


def test_preprocessing_subtracts_the_mean_before_it_reverses_the_channels() -> None:
    crops = torch.empty(1, 3, 8, 8)
    crops[:, 0], crops[:, 1], crops[:, 2] = 110, 220, 130  # red, green, blue
    rgb = Small("rgb").preprocess(crops)
    assert rgb[0, :, 0, 0].tolist() == [50.0, 100.0, 50.0]
    crops[:, 2] = 30
    bgr = Small("bgr").preprocess(crops)
    assert bgr[0, :, 0, 0].tolist() == [0.0, 100.0, 50.0]


@pytest.mark.parametrize("side", [5, 8, 31])
def test_preprocessing_resizes_crops_of_any_size(side: int) -> None:
    crops = torch.full((2, 3, side, side), 70, dtype=torch.uint8)
    inputs = Small().preprocess(crops)
    assert inputs.shape == (2, 3, 8, 8)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs[:, 0], torch.full((2, 8, 8), 30.0))


def test_hash_follows_every_weight_and_buffer() -> None:
    net = Small()
    assert weights_sha256(copy.deepcopy(net)) == weights_sha256(net)
    for name, value in net.state_dict().items():
        other = copy.deepcopy(net)
        other.state_dict()[name].add_(torch.ones_like(value))
        assert weights_sha256(other) != weights_sha256(net), name


def test_unknown_tap_lists_the_taps() -> None:
    with pytest.raises(UserError, match="small has no layer 'pool5'; its layers are first, second"):
        Small()(torch.zeros(1, 3, 8, 8), ["pool5"])
