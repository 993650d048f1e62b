"""The preset `paper` on VGG-16 at 224 pixels: two steps of every stage against a computation by hand.

The hand computation is written with plain tensor operations and shares nothing with the package but the weights, the
crops, the dropout masks and the labels: the forward pass, softmax cross-entropy by log-sum-exp, the sum of squared
differences over 2N, gradients of some layers by the chain rule, and SGD with momentum and weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facenet2expnet import recipes
from facenet2expnet.nets.face import vgg_face
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import loop, stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.classify import ClassifyStage, Stage2
from facenet2expnet.training.distil import DistilStage
from facenet2expnet.training.stages import TrainingContext
from facenet2expnet.training.teacher import TrainingSet

CPU = torch.device("cpu")
MEAN = torch.tensor([129.1863, 104.7624, 93.5940]).view(1, 3, 1, 1)
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
BRIDGE = ("net.bridge.conv.weight", "net.bridge.conv.bias")
NARROW = ((3, 4, 1), (4, 4, 2), (4, 8, 1), (8, 8, 1), (8, 512, 1))
"""Channels of a narrow VGG-16 with the same shape at pool5, 512 x 7 x 7, and a thousandth of its time."""


@dataclass
class Seen:
    """What the hand computation takes from the training, in the order of the steps."""

    crops: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    steps: list[tuple[str, float, float]] = field(default_factory=list)
    layers: dict[str, dict[str, Layer]] = field(default_factory=dict)


class Layer:
    """The weights of a layer under SGD by hand."""

    def __init__(self, weights: Tensor, lr: float) -> None:
        self.lr, self.decay = lr, WEIGHT_DECAY if weights.ndim > 1 else 0.0
        self.first = weights.detach().clone()
        self.now = self.first.clone()
        self.velocity = torch.zeros_like(self.first)

    def step(self, gradient: Tensor) -> None:
        self.velocity = MOMENTUM * self.velocity + gradient.view_as(self.now) + self.decay * self.now
        self.now = self.now - self.lr * self.velocity


def vgg_by_hand(weights: dict[str, Tensor], crops: Tensor) -> Tensor:
    """Crops (B, 3, 224, 224) -> pool5 (B, 512, 7, 7)."""
    maps = crops - MEAN
    for stage in range(1, 6):
        for index in range(1, 4):
            name = f"face_net.conv{stage}_{index}"
            if f"{name}.weight" in weights:
                maps = functional.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(
                    min=0
                )
        maps = functional.max_pool2d(maps, 2)
    return maps


def expnet_by_hand(weights: dict[str, Tensor], crops: Tensor) -> Tensor:
    """Crops (B, 3, 224, 224) -> what the bridge sees, (B, C, 7, 7)."""
    maps = (crops - MEAN) / 64
    for block in range(1, 6):
        name = f"net.convolutions.conv{block}"
        maps = functional.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
        maps = functional.max_pool2d(maps.clamp(min=0), 3, stride=2, ceil_mode=True)
    return maps


def bridge_by_hand(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bkhw,ok->bohw", maps, weight[:, :, 0, 0]) + bias[:, None, None]


def cross_entropy_by_hand(scores: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Give the mean loss, and its gradient by the scores."""
    top = scores.max(dim=1, keepdim=True).values
    sums = (scores - top).exp().sum(dim=1, keepdim=True)
    logs = scores - top - sums.log()
    rows = torch.arange(len(scores))
    gradient = logs.exp()
    gradient[rows, targets] -= 1
    return -logs[rows, targets].mean().item(), gradient / len(scores)


def fine_tune_by_hand(stage: Any, targets: Tensor, seen: Seen) -> float:
    weights = dict(stage.module.named_parameters())
    rates = {"head.scores.weight": 1e-3, "head.scores.bias": 1e-3, "face_net.fc7.weight": 1e-4}
    score, bias, hidden = layers_of(seen, "fine_tune", weights, rates)
    pool5 = vgg_by_hand(weights, seen.crops[-1]).flatten(1)
    fc6 = (pool5 @ weights["face_net.fc6.weight"].T + weights["face_net.fc6.bias"]).clamp(min=0)
    mask6, mask7 = seen.masks[-2:]
    fc7 = (mask6 * fc6) @ hidden.now.T + weights["face_net.fc7.bias"]
    kept = mask7 * fc7.clamp(min=0)
    loss, by_scores = cross_entropy_by_hand(kept @ score.now.T + bias.now, targets)
    by_fc7 = (by_scores @ score.now) * mask7 * (fc7 > 0)
    hidden.step(by_fc7.T @ (mask6 * fc6))
    score.step(by_scores.T @ kept)
    bias.step(by_scores.sum(0))
    return loss


def stage_1_by_hand(stage: Any, targets: Tensor, seen: Seen) -> float:
    weights, teacher = (dict(net.named_parameters()) for net in (stage.student, stage.teaching.teacher))
    bridge, bias = layers_of(seen, "stage1", weights, dict.fromkeys(BRIDGE, 1e-7))
    maps = expnet_by_hand(weights, seen.crops[-1])
    difference = bridge_by_hand(maps, bridge.now, bias.now) - vgg_by_hand(teacher, seen.crops[-1])
    assert difference.shape[1:] == (512, 7, 7)
    count = len(targets)
    bridge.step(torch.einsum("bohw,bkhw->ok", difference, maps) / count)
    bias.step(difference.sum(dim=(0, 2, 3)) / count)
    return (difference**2).sum().item() / (2 * count)


def stage_2_by_hand(stage: Any, targets: Tensor, seen: Seen) -> float:
    weights = dict(stage.module.named_parameters())
    rates = dict.fromkeys([*BRIDGE, "net.head.fc6.weight", "net.head.scores.weight"], 1e-4)
    bridge, bias, hidden, score = layers_of(seen, "stage2", weights, rates)
    maps = expnet_by_hand(weights, seen.crops[-1])
    mask6, mask7 = seen.masks[-2:]
    flat = mask6 * bridge_by_hand(maps, bridge.now, bias.now).flatten(1)
    fc6 = flat @ hidden.now.T + weights["net.head.fc6.bias"]
    kept = mask7 * fc6.clamp(min=0)
    loss, by_scores = cross_entropy_by_hand(kept @ score.now.T + weights["net.head.scores.bias"], targets)
    by_fc6 = (by_scores @ score.now) * mask7 * (fc6 > 0)
    by_bridge = ((by_fc6 @ hidden.now) * mask6).view(-1, 512, 7, 7)
    bridge.step(torch.einsum("bohw,bkhw->ok", by_bridge, maps))
    bias.step(by_bridge.sum(dim=(0, 2, 3)))
    hidden.step(by_fc6.T @ flat)
    score.step(by_scores.T @ kept)
    return loss


def layers_of(seen: Seen, stage: str, weights: dict[str, Tensor], rates: dict[str, float]) -> list[Layer]:
    """Give the layers that SGD by hand trains; at first as they are when the stage begins."""
    if stage not in seen.layers:
        seen.layers[stage] = {name: Layer(weights[name], lr) for name, lr in rates.items()}
    return list(seen.layers[stage].values())


BY_HAND: dict[str, Callable[[Any, Tensor, Seen], float]] = {
    "fine_tune": fine_tune_by_hand,
    "stage1": stage_1_by_hand,
    "stage2": stage_2_by_hand,
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Record crops, dropout masks and losses of the stages; every step is computed by hand too."""
    seen = Seen()
    augment = Augment.forward

    def crops(self: Augment, stored: Tensor) -> Tensor:
        seen.crops.append(augment(self, stored))
        return seen.crops[-1]

    def dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training:
            return values
        assert p == 0.5
        seen.masks.append((torch.rand(values.shape) >= p).float() / (1 - p))
        return values * seen.masks[-1]

    def beside(original: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
        def loss(self: Any, examples: Tensor) -> Tensor:
            value = original(self, examples)
            with torch.no_grad():
                by_hand = BY_HAND[self.name](self, self.data.targets[examples], seen)
            seen.steps.append((self.name, value.item(), by_hand))
            return value

        return loss

    monkeypatch.setattr(Augment, "forward", crops)
    monkeypatch.setattr(functional, "dropout", dropout)
    for kind in (ClassifyStage, Stage2, DistilStage):
        monkeypatch.setattr(kind, "loss", beside(kind.loss))
    monkeypatch.setattr(loop, "write_tensors", lambda *_: None)  # half a gigabyte
    return seen


def paper(*settings: str) -> Recipe:
    """Give the preset with generated weights, and two steps of two pictures for every stage."""
    short = [f"{name}.{number}" for name in BY_HAND for number in ("epochs=1", "batch_size=2")]
    return recipes.override(recipes.preset("paper"), ["face_net.weights=generated", *short, *settings])


@pytest.fixture
def data() -> TrainingSet:
    """Give pictures within a few grey levels of the mean: generated weights keep the scale of their input."""
    noise = np.random.default_rng(0).normal(0, 1.0, (4, 256, 256, 3))
    pixels = (MEAN.view(3).numpy() + noise).round().astype(np.uint8)
    return TrainingSet(pixels, np.arange(4), np.array([0, 3, 5, 7]), 8, CPU)


def check_layers(layers: dict[str, Layer], trained: dict[str, Tensor]) -> None:
    """Compare with the trained weights, within a thousandth of the way and the rounding of two steps."""
    for name, layer in layers.items():
        way = (layer.now - layer.first).abs().max()
        rounding = 4 * torch.finfo(torch.float32).eps * layer.first.abs()
        assert way > 2 * rounding.max(), name
        assert ((trained[name] - layer.now).abs() <= 1e-3 * way + rounding).all(), name


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["narrow", "whole"])
def test_two_steps_of_every_stage_agree_with_the_computation_by_hand(
    data: TrainingSet, seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(vgg_face, "STAGES", NARROW)
    setting = TrainingContext(paper() if whole else paper("expnet.width=0.1"), 0, CPU)
    teacher = stages.fine_tune(data, setting, tmp_path)
    assert sum(weights.numel() for weights in teacher.face_net.parameters()) == 134_260_544 or not whole
    check_layers(seen.layers["fine_tune"], teacher.state_dict())
    model = stages.fn2en(data, teacher, setting, tmp_path)
    check_layers(seen.layers["stage1"], {name: seen.layers["stage2"][name].first for name in seen.layers["stage1"]})
    check_layers(seen.layers["stage2"], model.state_dict())
    assert [name for name, _, _ in seen.steps] == ["fine_tune"] * 2 + ["stage1"] * 2 + ["stage2"] * 2
    for name, loss, by_hand in seen.steps:
        assert loss == pytest.approx(by_hand, rel=1e-4), name
    assert all(crops.shape == (2, 3, 224, 224) for crops in seen.crops)
