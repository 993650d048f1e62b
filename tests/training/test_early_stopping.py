"""Early stopping: when a stage ends, with which weights, on which pictures, and after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

import tiny
from facenet2expnet.errors import UserError
from facenet2expnet.nets.storage import read_tensors
from facenet2expnet.recipe import StageRecipe
from facenet2expnet.training import loop, stages
from facenet2expnet.training.augment import centre_crop
from facenet2expnet.training.loop import EpochRecord, best_epoch, fit
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart

STOPS = [5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 1.0]
"""With a patience of 2 the last is not reached: epoch 4 is the best, an equal one is no better."""


class Scripted:
    """A line that learns while its inner losses are given; remembers the weights that each was asked of."""

    name = "scripted"

    def __init__(self, recipe: StageRecipe, script: list[float]) -> None:
        self.recipe, self.script = recipe, script
        self.module: nn.Module = nn.Linear(1, 1)
        nn.init.zeros_(self.module.weight)
        nn.init.zeros_(self.module.bias)
        self.inputs = torch.linspace(-1, 1, 9)[:, None]
        self.judged: list[float] = []
        self.epoch = 0

    def sample(self) -> Tensor:
        return torch.randperm(9)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "lr_factor": 1.0}]

    def loss(self, examples: Tensor) -> Tensor:
        assert self.module.training
        return (self.module(self.inputs[examples]) - 2 * self.inputs[examples]).square().mean()

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    def inner_loss(self) -> float:
        assert not self.module.training
        assert not torch.is_grad_enabled()
        self.judged.append(self.module.weight.item())
        self.epoch += 1
        return self.script[self.epoch - 1]


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def recipe(**changes: Any) -> StageRecipe:
    return StageRecipe(epochs=7, batch_size=4, lr=0.02, **{"patience": 2, **changes})


def test_it_stops_after_its_patience_and_takes_back_its_best_weights(tmp_path: Path, fabric: Fabric) -> None:
    stage = Scripted(recipe(), STOPS)
    records = fit(stage, tmp_path, seed=0, fabric=fabric)
    assert [record.inner for record in records] == STOPS[:6]
    assert best_epoch(records) == 4
    assert len(set(stage.judged)) == 6
    assert stage.module.weight.item() == stage.judged[3]
    again = Scripted(recipe(), STOPS)
    assert fit(again, tmp_path, seed=0, fabric=fabric) == records
    assert again.module.weight.item() == stage.judged[3]


def test_a_stage_that_gets_through_ends_with_its_best_weights_too(tmp_path: Path, fabric: Fabric) -> None:
    stage = Scripted(recipe(patience=6), [*STOPS[:6], 7.0])
    assert len(fit(stage, tmp_path, seed=0, fabric=fabric)) == 7
    assert stage.module.weight.item() == stage.judged[3]


def test_without_patience_nothing_is_watched(tmp_path: Path, fabric: Fabric) -> None:
    stage = Scripted(recipe(patience=0), [])
    records = fit(stage, tmp_path, seed=0, fabric=fabric)
    assert [record.inner for record in records] == [None] * 7
    assert best_epoch(records) == 0


def test_watching_changes_no_weight_on_the_way(tmp_path: Path, fabric: Fabric) -> None:
    for decay in (0.0, 0.8):
        watched = Scripted(recipe(patience=7, ema_decay=decay), [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
        plain = Scripted(recipe(patience=0, ema_decay=decay), [])
        first = fit(watched, tmp_path / f"watched{decay}", seed=0, fabric=fabric)
        second = fit(plain, tmp_path / f"plain{decay}", seed=0, fabric=fabric)
        assert [record.loss for record in first] == [record.loss for record in second]
        assert watched.module.weight.equal(plain.module.weight)
        assert watched.judged[-1] == plain.module.weight.item()  # it is the averaged weights that are judged


@pytest.mark.parametrize("decay", [0.0, 0.8])
@pytest.mark.parametrize("killed_in", [2, 5, 6])
def test_a_killed_stage_goes_on_bit_for_bit(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, killed_in: int, decay: float
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole = Scripted(recipe(ema_decay=decay), STOPS)
    records = fit(whole, tmp_path / "whole", seed=0, fabric=fabric)

    def break_off(record: EpochRecord) -> None:
        if record.epoch == killed_in:
            raise InterruptedError

    broken = Scripted(recipe(ema_decay=decay), STOPS)
    with pytest.raises(InterruptedError):
        fit(broken, tmp_path / "broken", seed=0, fabric=fabric, listener=break_off)
    resumed = Scripted(recipe(ema_decay=decay), STOPS)
    resumed.epoch = killed_in - 1
    again = fit(resumed, tmp_path / "broken", seed=0, fabric=fabric)
    assert [(r.loss, r.inner) for r in again] == [(r.loss, r.inner) for r in records]
    assert len(resumed.judged) == len(records) - killed_in + 1
    assert resumed.module.weight.equal(whole.module.weight)


def test_a_stage_killed_after_its_last_epoch_trains_none_more(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole = Scripted(recipe(), STOPS)
    writes = loop.write_tensors

    def cut_short(path: Path, *rest: Any) -> None:
        if "checkpoint" not in path.name:
            raise InterruptedError
        writes(path, *rest)

    monkeypatch.setattr(loop, "write_tensors", cut_short)
    with pytest.raises(InterruptedError):
        fit(whole, tmp_path, seed=0, fabric=fabric)
    monkeypatch.setattr(loop, "write_tensors", writes)
    resumed = Scripted(recipe(), [])
    assert len(fit(resumed, tmp_path, seed=0, fabric=fabric)) == 6
    assert resumed.module.weight.item() == whole.judged[3]


def test_an_inner_loss_that_is_no_number_stops_with_advice(tmp_path: Path, fabric: Fabric) -> None:
    with pytest.raises(UserError, match=r"scripted: the loss of epoch 2 is nan; lower the learning rate"):
        fit(Scripted(recipe(), [1.0, float("nan")]), tmp_path, seed=0, fabric=fabric)


def faces(seed: int, targets: list[int], inner: TrainingPart | None = None) -> TrainingPart:
    pixels = np.random.default_rng(seed).integers(0, 255, (len(targets), 36, 36, 3), dtype=np.uint8)
    return TrainingPart(pixels, np.array(targets), 3, torch.device("cpu"), inner)


@pytest.mark.usefixtures("tiny_face_net")
def test_stages_watch_plain_losses_of_the_inner_pictures(
    tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = faces(2, [0, 1, 2, 0, 1])
    part = faces(1, [0, 1, 2] * 8, inner)
    settings = [f"{name}.patience=9" for name in ("fine_tune", "stage1", "stage2", "scratch")]
    settings += [
        "stage2.label_smoothing=0.2",
        "stage2.balance=weights",
        "fine_tune.epochs=1",
        "stage2.epochs=1",
    ]
    told: list[EpochRecord] = []
    setting = Setting(tiny.tiny_recipe(*settings), 0, fabric, told.append)
    teacher = stages.fine_tune(part, setting, tmp_path / "teacher")
    crops = centre_crop(inner.stored(torch.arange(5)), 32)
    expected = functional.cross_entropy(teacher(crops), inner.targets).item()
    assert told[-1].inner == pytest.approx(expected, rel=1e-5)

    seen: list[Any] = []
    monkeypatch.setattr(stages.Regression, "__init__", _remembering(stages.Regression.__init__, seen))
    model = stages.fn2en(part, teacher, setting, tmp_path)
    expected = functional.cross_entropy(model(crops), inner.targets).item()
    assert told[-1].inner == pytest.approx(expected, rel=1e-5)

    (regression,) = seen
    weights, _ = read_tensors(tmp_path / "stage1.safetensors")
    regression.module.load_state_dict(weights)
    features = teacher.with_taps(crops, ["late"])[1][0]
    regression.student.net.bridge.set_affine(torch.zeros(1), torch.ones(1))
    with torch.no_grad():
        expected = regression.comparison.objectives[0](
            regression.student.eval().features(crops), features
        ).item()
    best = min(record.inner for record in told if record.stage == "stage1" if record.inner is not None)
    assert best == pytest.approx(expected, rel=1e-4)
    assert len(regression.views.crops) == 24  # no view of an inner picture


def _remembering(original: Any, seen: list[Any]) -> Any:
    def remember(self: Any, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        seen.append(self)

    return remember
