"""The loop: schedules, steps, early stopping, losses that are not finite, resuming bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facenet2expnet.errors import StageStopped
from facenet2expnet.nets.storage import read_tensors
from facenet2expnet.recipe import StageRecipe
from facenet2expnet.training import loop
from facenet2expnet.training.loop import EpochRecord, best_epoch, fit, lr_factor

CPU = torch.device("cpu")
PLAIN = StageRecipe(epochs=4, batch_size=4, lr=0.05, weight_decay=0.0)
VAL_LOSSES = (5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 1.0)
"""With a patience of 2 the last epoch is not reached: epoch 4 is the best, since an equal loss is not lower."""
STOPPING = replace(PLAIN, epochs=7, patience=2, lr=0.02)


class Line:
    """Fits y = 2x with one weight and a bias; its validation losses are given."""

    name = "line"

    def __init__(
        self, recipe: StageRecipe, val_losses: Sequence[float] = VAL_LOSSES, *, broken_from: int = 10**6
    ) -> None:
        self.recipe, self.val_losses, self.broken_from = recipe, list(val_losses), broken_from
        self.module: nn.Module = nn.Linear(1, 1)
        nn.init.zeros_(self.module.weight)
        nn.init.zeros_(self.module.bias)
        self.inputs = torch.linspace(-1, 1, 9)[:, None]
        self.batch_sizes: list[int] = []
        self.weights: list[float] = []  # before every step
        self.validated: list[float] = []

    def epoch_order(self) -> Tensor:
        return torch.randperm(9)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "lr_factor": 1.0}]

    def loss(self, examples: Tensor) -> Tensor:
        assert self.module.training
        self.batch_sizes.append(len(examples))
        self.weights.append(self.module.weight.item())
        inputs = self.inputs[examples]
        loss = (self.module(inputs) - 2 * inputs).square().mean()
        return loss * float("nan") if len(self.batch_sizes) >= self.broken_from else loss

    def epoch_metrics(self) -> dict[str, float]:
        return {"r2": 0.5}

    def validation_loss(self) -> float:
        assert not self.module.training
        assert not torch.is_grad_enabled()
        self.validated.append(self.module.weight.item())
        return self.val_losses.pop(0)


def train(stage: Line, folder: Path, **others: Any) -> list[EpochRecord]:
    return fit(stage, folder, seed=0, device=CPU, **others)


def test_step_schedule() -> None:
    recipe = StageRecipe(epochs=50, schedule="step", milestones=(20, 40), decay=0.1)
    factors = [lr_factor(recipe, epoch) for epoch in (0, 19.9, 20, 39.9, 40, 49)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    recipe = StageRecipe(epochs=10, schedule="cosine", warmup_epochs=2)
    warming = [lr_factor(recipe, epoch) for epoch in (0, 1, 2)]
    assert warming == pytest.approx([0.0625 / 2.0625, 1.0625 / 2.0625, 1])
    assert lr_factor(recipe, 6) == pytest.approx(0.5)
    assert lr_factor(recipe, 10) == pytest.approx(0, abs=1e-12)
    assert lr_factor(replace(recipe, schedule="constant"), 9) == 1


def test_four_losses_are_pinned(tmp_path: Path) -> None:
    stage = Line(replace(PLAIN, lr=0.1))
    losses = [record.loss for record in train(stage, tmp_path)]
    assert losses == pytest.approx([1.5551, 0.6810, 0.0433, 0.1245], abs=1e-4)


def test_a_line_is_learned_and_a_last_batch_of_one_joins_the_one_before(tmp_path: Path) -> None:
    stage = Line(replace(PLAIN, epochs=200))
    records = train(stage, tmp_path)
    assert records[-1].loss < 1e-6
    assert (records[-1].r2, records[-1].accuracy, records[-1].val_loss) == (0.5, None, None)
    assert stage.batch_sizes[:4] == [4, 5, 4, 5]


def test_the_rate_follows_the_schedule_within_an_epoch(tmp_path: Path) -> None:
    """Two steps an epoch without momentum: every step moves by rate times gradient."""
    stage = Line(replace(PLAIN, epochs=2, schedule="cosine", momentum=0.0))

    def weight_itself(examples: Tensor) -> Tensor:
        stage.weights.append(stage.module.weight.item())
        return stage.module.weight.sum()

    stage.loss = weight_itself  # type: ignore[method-assign]
    records = train(stage, tmp_path)
    after = [*stage.weights[1:], stage.module.weight.item()]
    steps = [before - after for before, after in zip(stage.weights, after, strict=True)]
    assert steps == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])
    assert [record.lr for record in records] == pytest.approx([0.05, 0.025])


def test_weight_decay_leaves_biases_alone(tmp_path: Path) -> None:
    stage = Line(replace(PLAIN, epochs=1, batch_size=9, lr=0.1, momentum=0.0, weight_decay=1.0))
    nn.init.ones_(stage.module.weight)
    nn.init.ones_(stage.module.bias)
    stage.loss = lambda examples: 0 * stage.module(stage.inputs).sum()  # type: ignore[method-assign]
    train(stage, tmp_path)
    assert stage.module.weight.item() == pytest.approx(0.9)
    assert stage.module.bias.item() == 1.0


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    stage = Line(replace(PLAIN, epochs=1, batch_size=9, lr=1.0, momentum=0.0, clip_norm=1e-3))
    train(stage, tmp_path)
    moved = math.hypot(stage.module.weight.item(), stage.module.bias.item())
    assert moved == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("broken_from", "where"),
    [(1, "epoch 1, step 1"), (3, "epoch 1, step 3"), (25, "epoch 1, step 25"), (31, "epoch 2, step 1")],
)
def test_the_message_names_the_first_step_whose_loss_is_not_finite(
    tmp_path: Path, broken_from: int, where: str
) -> None:
    """The losses are read every 20 steps only, and at the end of an epoch; here an epoch has 30."""
    stage = Line(replace(PLAIN, epochs=3, batch_size=3), broken_from=broken_from)
    stage.inputs = torch.linspace(-1, 1, 90)[:, None]
    stage.epoch_order = lambda: torch.randperm(90)  # type: ignore[method-assign]
    with pytest.raises(StageStopped, match=rf"line: the loss of {where} is nan; lower .*--set line\.lr=0\.005"):
        train(stage, tmp_path)
    assert len(stage.batch_sizes) < broken_from + loop.STEPS_BETWEEN_CHECKS
    assert list(tmp_path.iterdir()) == []


def test_the_advice_names_only_what_is_not_set(tmp_path: Path) -> None:
    careful = replace(PLAIN, clip_norm=1.0, warmup_epochs=1)
    with pytest.raises(StageStopped, match=r"\(--set line\.lr=0\.005\)$"):
        train(Line(careful, broken_from=1), tmp_path)
    with pytest.raises(StageStopped, match=r"--set line\.clip_norm=1\), .*--set line\.warmup_epochs=1\)$"):
        train(Line(PLAIN, broken_from=1), tmp_path)


def test_a_broken_epoch_does_not_overwrite_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    stage = Line(PLAIN, broken_from=6)  # the last step of epoch 3
    with pytest.raises(StageStopped, match="epoch 3, step 2"):
        train(stage, tmp_path)
    tensors, metadata = read_tensors(tmp_path / "line.checkpoint.safetensors")
    assert [record["epoch"] for record in metadata["records"]] == [1, 2]
    assert tensors["weights/weight"].item() == stage.weights[4]


def test_a_checkpoint_beside_finished_weights_is_deleted(tmp_path: Path) -> None:
    train(Line(PLAIN), tmp_path)
    left = tmp_path / "line.checkpoint.safetensors"
    left.touch()
    train(Line(PLAIN), tmp_path)
    assert not left.exists()


def test_a_validation_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StageStopped, match=r"line: the validation loss of epoch 2 is inf; lower the learning"):
        train(Line(STOPPING, [1.0, float("inf")]), tmp_path)


@pytest.mark.parametrize(("patience", "epochs"), [(2, 6), (3, 7)])
def test_a_stage_stops_after_its_patience_with_its_best_weights(tmp_path: Path, patience: int, epochs: int) -> None:
    """A stage that trains all 7 epochs ends with its best weights too."""
    val_losses = [*VAL_LOSSES[:6], 7.0]
    stage = Line(replace(STOPPING, patience=patience), val_losses)
    records = train(stage, tmp_path)
    assert [record.val_loss for record in records] == val_losses[:epochs]
    assert best_epoch(records) == 4
    assert len(set(stage.validated)) == epochs
    assert stage.module.weight.item() == stage.validated[3]


def test_validation_does_not_change_the_training(tmp_path: Path) -> None:
    falling = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    validated = Line(replace(STOPPING, patience=7), falling)
    plain = Line(replace(STOPPING, patience=0), [])
    train(validated, tmp_path / "validated")
    records = train(plain, tmp_path / "plain")
    assert best_epoch(records) == 0
    assert validated.weights == plain.weights
    assert validated.module.weight.equal(plain.module.weight)
    assert validated.validated[-1] == plain.module.weight.item()


def test_a_finished_stage_is_read_and_its_records_are_given_again(tmp_path: Path) -> None:
    first, second, seen = Line(STOPPING), Line(STOPPING), []
    records = train(first, tmp_path)
    assert train(second, tmp_path, on_epoch=seen.append) == records == seen
    assert second.batch_sizes == []
    assert second.module.weight.equal(first.module.weight)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("stopped_in", [2, 5, 6])
def test_a_resumed_stage_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: int, optimiser: str
) -> None:
    """Stopped before its epoch is in a checkpoint: before the best epoch, after it, and in the last one."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    recipe = replace(STOPPING, optimiser=optimiser)
    whole = Line(recipe)
    records = train(whole, tmp_path / "whole")

    def stop(record: EpochRecord) -> None:
        if record.epoch == stopped_in:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(Line(recipe), tmp_path / "stopped", on_epoch=stop)
    resumed, seen = Line(recipe, VAL_LOSSES[stopped_in - 1 :]), []
    train(resumed, tmp_path / "stopped", on_epoch=seen.append)
    assert [(r.epoch, r.loss, r.val_loss) for r in seen] == [(r.epoch, r.loss, r.val_loss) for r in records]
    assert resumed.weights == whole.weights[2 * (stopped_in - 1) :]
    assert resumed.module.weight.equal(whole.module.weight)
    assert resumed.module.bias.equal(whole.module.bias)
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["line.safetensors"]


def test_a_stage_that_was_stopped_after_its_last_epoch_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    write = loop.write_tensors

    def stop(path: Path, *others: Any) -> None:
        if "checkpoint" not in path.name:
            raise InterruptedError
        write(path, *others)

    stopped = Line(STOPPING)
    monkeypatch.setattr(loop, "write_tensors", stop)
    with pytest.raises(InterruptedError):
        train(stopped, tmp_path)
    monkeypatch.setattr(loop, "write_tensors", write)
    resumed = Line(STOPPING, [])
    assert len(train(resumed, tmp_path)) == 6
    assert resumed.batch_sizes == []
    assert resumed.module.weight.item() == stopped.validated[3]
