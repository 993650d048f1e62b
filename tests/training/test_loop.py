"""The loop: schedules, overfitting, pinned losses, a loss that is no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.recipe import StageRecipe
from facenet2expnet.training import loop
from facenet2expnet.training.loop import EpochRecord, fit, lr_factor

STEPS = StageRecipe(epochs=50, schedule="step", milestones=(20, 40), decay=0.1)


class Line:
    """Fits y = 2x with one weight."""

    name = "line"

    def __init__(self, recipe: StageRecipe, broken: bool = False) -> None:
        self.recipe = recipe
        self.module: nn.Module = nn.Linear(1, 1)
        nn.init.zeros_(self.module.weight)
        nn.init.zeros_(self.module.bias)
        self.inputs = torch.linspace(-1, 1, 9)[:, None]
        self.broken = broken
        self.seen: list[int] = []

    def sample(self) -> Tensor:
        return torch.randperm(9)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "lr_factor": 1.0}]

    def loss(self, examples: Tensor) -> Tensor:
        self.seen.append(len(examples))
        inputs = self.inputs[examples]
        loss = (self.module(inputs) - 2 * inputs).square().mean()
        return loss * float("nan") if self.broken else loss

    def epoch_metrics(self) -> dict[str, float]:
        return {"r2": 0.5}


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def test_step_schedule_is_the_papers() -> None:
    paper = replace(STEPS, milestones=(20,))
    assert [lr_factor(paper, e) for e in (0, 19.9, 20, 49)] == pytest.approx([1, 1, 0.1, 0.1])
    assert lr_factor(STEPS, 45) == pytest.approx(0.01)


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    recipe = StageRecipe(epochs=10, schedule="cosine", warmup_epochs=2)
    assert 0 < lr_factor(recipe, 0) < 0.1
    assert lr_factor(recipe, 2) == pytest.approx(1)
    assert lr_factor(recipe, 6) == pytest.approx(0.5)
    assert lr_factor(recipe, 10) == pytest.approx(0, abs=1e-12)
    assert lr_factor(replace(recipe, schedule="constant"), 9) == 1


def test_four_losses_pinned(tmp_path: Path, fabric: Fabric) -> None:
    stage = Line(StageRecipe(epochs=4, batch_size=4, lr=0.1, weight_decay=0.0, momentum=0.9))
    losses = [record.loss for record in fit(stage, tmp_path, seed=0, fabric=fabric)]
    assert losses == pytest.approx([1.5551, 0.6810, 0.0433, 0.1245], abs=1e-4)


def test_a_line_is_learned_and_a_last_batch_of_one_joins_the_one_before(
    tmp_path: Path, fabric: Fabric
) -> None:
    stage = Line(StageRecipe(epochs=200, batch_size=4, lr=0.05, weight_decay=0.0))
    records = fit(stage, tmp_path, seed=0, fabric=fabric)
    assert records[-1].loss < 1e-6
    assert stage.seen[:2] == [4, 5]
    assert records[-1].r2 == 0.5
    assert records[-1].accuracy is None


def test_an_ended_stage_is_read_not_trained(tmp_path: Path, fabric: Fabric) -> None:
    recipe = StageRecipe(epochs=3, batch_size=4, lr=0.05)
    first = Line(recipe)
    records = fit(first, tmp_path, seed=0, fabric=fabric)
    second, told = Line(recipe), []
    assert fit(second, tmp_path, seed=0, fabric=fabric, listener=told.append) == records == told
    assert second.seen == []
    assert second.module.weight.equal(first.module.weight)


def test_a_broken_off_stage_goes_on_from_its_checkpoint(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    recipe = StageRecipe(epochs=5, batch_size=4, lr=0.05)
    whole, broken, resumed = Line(recipe), Line(recipe), Line(recipe)
    records = fit(whole, tmp_path / "whole", seed=0, fabric=fabric)

    def break_off(record: EpochRecord) -> None:
        if record.epoch == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(broken, tmp_path / "broken", seed=0, fabric=fabric, listener=break_off)
    again = fit(resumed, tmp_path / "broken", seed=0, fabric=fabric)
    assert [record.loss for record in again] == [record.loss for record in records]
    assert resumed.seen == whole.seen[4:]  # two epochs of two batches were not trained again
    assert resumed.module.weight.equal(whole.module.weight)


def test_averaged_weights_follow_their_recurrence(tmp_path: Path, fabric: Fabric) -> None:
    """Three steps an epoch: the decay is 1/10, 2/11, 3/12, ... until it reaches the recipe's 0.3."""
    stage = Line(StageRecipe(epochs=2, batch_size=3, lr=0.02, weight_decay=0.0, ema_decay=0.3))
    passed: list[float] = []
    loss = stage.loss

    def remembered(examples: torch.Tensor) -> torch.Tensor:
        passed.append(stage.module.weight.item())
        return loss(examples)

    stage.loss = remembered  # type: ignore[method-assign]
    averaged = stage.module.weight.item()
    fit(stage, tmp_path / "slow", seed=0, fabric=fabric)
    plain = Line(StageRecipe(epochs=2, batch_size=3, lr=0.02, weight_decay=0.0))
    fit(plain, tmp_path / "plain", seed=0, fabric=fabric)
    after = [*passed[1:], plain.module.weight.item()]
    for step, weight in enumerate(after):
        decay = min(0.3, (1 + step) / (10 + step))
        averaged = decay * averaged + (1 - decay) * weight
    assert len(after) == 6
    assert stage.module.weight.item() == pytest.approx(averaged, rel=1e-5)


def test_weight_decay_leaves_biases_alone(tmp_path: Path, fabric: Fabric) -> None:
    stage = Line(StageRecipe(epochs=1, batch_size=9, lr=0.1, momentum=0.0, weight_decay=1.0))
    stage.inputs = torch.zeros(9, 1)
    nn.init.ones_(stage.module.weight)
    stage.loss = lambda examples: 0 * stage.module(stage.inputs).sum() + 0 * stage.module.bias.sum()  # type: ignore[method-assign]
    nn.init.ones_(stage.module.bias)
    fit(stage, tmp_path, seed=0, fabric=fabric)
    assert stage.module.weight.item() == pytest.approx(0.9)
    assert stage.module.bias.item() == 1.0


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path: Path, fabric: Fabric) -> None:
    with pytest.raises(UserError, match=r"line: the loss of epoch 1 is nan; lower .*--set line\.lr=0\.005"):
        fit(Line(StageRecipe(epochs=3, lr=0.05), broken=True), tmp_path, seed=0, fabric=fabric)
    assert list(tmp_path.iterdir()) == []


def test_the_advice_names_nothing_that_is_set_already(tmp_path: Path, fabric: Fabric) -> None:
    recipe = StageRecipe(epochs=3, lr=0.05, clip_norm=1.0, warmup_epochs=1)
    with pytest.raises(UserError, match=r"--set line\.lr=0\.005\)$"):
        fit(Line(recipe, broken=True), tmp_path, seed=0, fabric=fabric)
    with pytest.raises(UserError, match=r"line\.clip_norm=1\), or .*line\.warmup_epochs=1"):
        fit(Line(StageRecipe(epochs=3), broken=True), tmp_path, seed=0, fabric=fabric)


def test_gradient_clipping_bounds_the_step(tmp_path: Path, fabric: Fabric) -> None:
    stage = Line(StageRecipe(epochs=1, batch_size=9, lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-3))
    fit(stage, tmp_path, seed=0, fabric=fabric)
    moved = np.hypot(stage.module.weight.item(), stage.module.bias.item())
    assert moved == pytest.approx(1e-3, rel=1e-3)
