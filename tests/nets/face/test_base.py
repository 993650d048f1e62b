"""What every face net inherits: preprocessing, freezing, batch norms that keep their statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from facenet2expnet.nets.face.base import ChainFaceNet, FaceNetInfo, weights_sha256


class Small(ChainFaceNet):
    """Convolution, batch norm, dropout; enough to see what is frozen."""

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


def statistics(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def test_frozen_net_stays_in_evaluation_mode_when_told_to_train() -> None:
    net = Small().freeze().train()
    before = statistics(net)
    crops = torch.rand(4, 3, 8, 8) * 255
    first, second = (net(crops, ["second"])["second"] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # no dropout
    for name, value in statistics(net).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert net.trainable() == []


def test_freezing_while_training_takes_effect_at_once() -> None:
    net = Small().train()
    assert net.norm.training
    net.requires_grad_(False)
    assert not net.norm.training
    net.requires_grad_(True)
    assert net.train().norm.training


def test_only_the_frozen_batch_norm_keeps_its_statistics() -> None:
    net = Small()
    net.norm.requires_grad_(False)
    net.train()
    before = statistics(net)
    net(torch.rand(4, 3, 8, 8) * 255, ["second"])
    assert not net.norm.training
    assert net.norm2.training
    assert torch.equal(net.norm.running_mean, before["norm.running_mean"])
    assert not torch.equal(net.norm2.running_mean, before["norm2.running_mean"])


def test_trainable_net_trains_and_evaluates_as_told() -> None:
    net = Small().train()
    assert net.training
    assert net.norm.training
    assert len(net.trainable()) == 8
    net.eval()
    assert not net.training
    assert not net.norm.training


def test_preprocessing_subtracts_the_mean_of_each_channel_then_turns_the_order() -> None:
    crops = torch.empty(1, 3, 8, 8)
    crops[:, 0], crops[:, 1], crops[:, 2] = 110, 220, 130  # red, green, blue
    rgb = Small("rgb").preprocess(crops)
    assert rgb[0, :, 0, 0].tolist() == [50.0, 100.0, 50.0]
    crops[:, 2] = 30
    bgr = Small("bgr").preprocess(crops)
    assert bgr[0, :, 0, 0].tolist() == [0.0, 100.0, 50.0]


@pytest.mark.parametrize("side", [5, 8, 31])
def test_preprocessing_brings_any_size_to_the_nets_own(side: int) -> None:
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
