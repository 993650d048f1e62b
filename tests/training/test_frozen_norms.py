"""Frozen batch norms: what came trained into a stage keeps its statistics and its weights, averaged or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import tiny
from facenet2expnet.training import stages
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart


class NormedFaceNet(tiny.TinyFaceNet):
    """The tiny face net with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        early = self.norm(self.early(inputs)).relu()
        late = self.late(early).relu()
        found = {"early": early, "late": late, "pooled": late.mean(dim=(2, 3))}
        return {name: found[name] for name in taps}


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> TrainingPart:
    monkeypatch.setattr(stages.face, "load", lambda name, weights: NormedFaceNet())
    pixels = np.random.default_rng(1).integers(0, 255, (24, 36, 36, 3), dtype=np.uint8)
    return TrainingPart(pixels, np.arange(24) % 3, 3, torch.device("cpu"))


def setting(*settings: str) -> Setting:
    return Setting(tiny.tiny_recipe(*settings), 0, Fabric(accelerator="cpu", devices=1))


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not value.equal(before[name])}


NORM = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


@pytest.mark.parametrize("averaged", ["0", "0.5"])
def test_a_face_net_keeps_its_batch_norms(part: TrainingPart, tmp_path: Path, averaged: str) -> None:
    decay = f"fine_tune.ema_decay={averaged}"
    before = NormedFaceNet().state_dict()
    learned = stages.fine_tune(part, setting(decay), tmp_path / "trainable")
    kept = stages.fine_tune(part, setting(decay, "fine_tune.batch_norm=frozen"), tmp_path / "frozen")
    assert moved(before, learned.face_net.state_dict()) == set(before)
    assert moved(before, kept.face_net.state_dict()) == set(before) - NORM
    assert kept.head.norm.running_mean.abs().sum() > 0  # the fresh head's own learns


@pytest.mark.parametrize("averaged", ["0", "0.5"])
def test_stage_2_keeps_the_batch_norms_of_stage_1(
    part: TrainingPart, tmp_path: Path, averaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = stages.fine_tune(part, setting(), tmp_path / "teacher")
    before: dict[str, Tensor] = {}
    classify = stages.classify

    def remember(model: nn.Module, *rest: object) -> None:
        before.update({name: value.clone() for name, value in model.state_dict().items()})
        classify(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "classify", remember)
    decay = f"stage2.ema_decay={averaged}"
    learned = stages.fn2en(part, teacher, setting(decay), tmp_path / "trainable")
    norms = {name for name in before if ".bn" in name}
    assert len(norms) == 5 * 5
    assert norms <= moved(before, learned.state_dict())
    kept = stages.fn2en(part, teacher, setting(decay, "stage2.batch_norm=frozen"), tmp_path / "frozen")
    after = moved(before, kept.state_dict())
    assert not norms & after
    assert {"net.convolutions.conv1.weight", "net.bridge.conv.weight", "net.head.fc6.weight"} <= after
