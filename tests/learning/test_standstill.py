"""A stage 1 that learns nothing: when it is stopped, when it is left alone, what it is told to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import tiny
from facenet2expnet.errors import UserError
from facenet2expnet.learning import stages
from facenet2expnet.learning.loop import EpochRecord
from facenet2expnet.learning.objectives import (
    Cosine,
    FitNets,
    ObjectiveModule,
    PNorm,
    RelationalKD,
    SmoothL1,
    WeightedSum,
    build_sum,
)
from facenet2expnet.learning.stages import Setting
from facenet2expnet.learning.standstill import Standstill, shows_in_r2
from facenet2expnet.learning.teacher import TrainingPart
from facenet2expnet.recipe import RegressRecipe, preset


def tell(recipe: RegressRecipe, r2: list[float], objective: ObjectiveModule | None = None) -> list[int]:
    """The epochs that a listener hears of; the objective is the paper's, as a recipe makes it, unless given."""
    heard: list[EpochRecord] = []
    watch = Standstill(
        recipe, objective or build_sum("p-norm(p=2)"), 25_088, batch_norm=False, listener=heard.append
    )
    for epoch, value in enumerate(r2, start=1):
        watch(EpochRecord("stage1", epoch, recipe.epochs, 1.0, None, value, recipe.lr, 0.1))
    return [record.epoch for record in heard]


SHORT = RegressRecipe(epochs=16, warmup_epochs=2, lr=1e-7)


@pytest.mark.parametrize(
    "r2",
    [
        [0.0] * 16,
        [-3.0, -2.9999] + [-2.9998] * 14,
        [0.002, 0.001, 0.0013, 0.0008, 0.0011, 0.0009] + [0.001] * 10,
    ],
)
def test_it_stops_what_stands_still(r2: list[float]) -> None:
    with pytest.raises(
        UserError,
        match=r"stage1: R2 is .* after 6 of 16 epochs and was .* after epoch 2 .*learns nothing; raise the rate "
        r"\(1e-07, 0\.00125 under a mean; --set stage1\.lr=1e-06\), or .*expnet\.batch_norm=true.*"
        r"stage1\.objective=standardised-l2",
    ):
        tell(SHORT, r2)


@pytest.mark.parametrize(
    "r2",
    [
        [-6 * np.exp(-epoch / 20) for epoch in range(16)],  # far below the mean face, climbing slowly
        [-6 * np.exp(-epoch / 300) for epoch in range(16)],
        [0.0003 * 1.3**epoch for epoch in range(16)],  # has left 0 and grows
        [0.006] * 16,
        [0.0] * 5,  # not looked at yet
    ],
)
def test_it_leaves_alone_what_moves_however_slowly(r2: list[float]) -> None:
    assert tell(SHORT, r2) == list(range(1, len(r2) + 1))


def test_what_falls_is_told_to_go_slower() -> None:
    with pytest.raises(UserError, match=r"lower the rate \(--set stage1\.lr=1e-08\) or clip"):
        tell(SHORT, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0])


@pytest.mark.parametrize(("r2", "told"), [(0.0049, True), (0.0051, False)])
def test_a_stage_that_ends_with_nothing_explained_is_told_of(r2: float, told: bool) -> None:
    notes: list[str] = []
    recipe = RegressRecipe(epochs=8, warmup_epochs=1, lr=1e-3)
    watch = Standstill(recipe, FitNets(), 64, batch_norm=True, listener=None, note=notes.append)
    climbs = [-20.0, -2.0, -0.3, -0.1, -0.05, -0.02, -0.01, r2]
    for epoch, value in enumerate(climbs, start=1):
        watch(EpochRecord("stage1", epoch, recipe.epochs, 1.0, None, value, recipe.lr, 0.1))
        assert epoch == 8 or not notes
    assert len(notes) == told
    if told:
        assert "stage1 ended at an R2 of 0.0049" in notes[0]
        assert "--set stage1.epochs=16" in notes[0]
        assert "standardised-l2" in notes[0]


def test_the_paper_has_75_epochs_to_move_and_a_short_stage_is_left_alone() -> None:
    paper = preset("paper").stage1
    assert len(tell(paper, [0.0] * 74)) == 74
    with pytest.raises(UserError, match="after 75 of 300 epochs"):
        tell(paper, [0.0] * 75)
    slow = [-900 * np.exp(-epoch / 400) for epoch in range(300)]
    assert len(tell(paper, slow)) == 300
    assert tell(RegressRecipe(epochs=3), [0.0] * 3) == [1, 2, 3]
    with pytest.raises(UserError, match="after 3 of 4 epochs"):
        tell(RegressRecipe(epochs=4), [0.0] * 4)


def test_only_objectives_that_show_in_r2_are_judged() -> None:
    assert len(tell(SHORT, [0.0] * 16, Cosine())) == 16
    assert len(tell(SHORT, [0.0] * 16, RelationalKD())) == 16
    assert all(shows_in_r2(kind()) for kind in (PNorm, FitNets, SmoothL1))
    assert shows_in_r2(WeightedSum([(1.0, Cosine()), (0.1, FitNets())]))
    assert not shows_in_r2(WeightedSum([(1.0, Cosine()), (0.1, RelationalKD())]))
    with pytest.raises(UserError, match=r"raise the rate \(1e-07; --set stage1\.lr=0\.001\)"):
        tell(SHORT, [0.0] * 16, FitNets())


@pytest.mark.usefixtures("tiny_face_net")
def test_a_rate_that_is_too_low_stops_the_training(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (24, 36, 36, 3), dtype=np.uint8)
    part = TrainingPart(pixels, np.arange(24) % 3, 3, torch.device("cpu"))
    recipe = tiny.tiny_recipe(
        "stage1.objective=fitnets", "stage1.lr=1e-9", "stage1.epochs=4", "stage2.standardised_input=false"
    )
    told: list[EpochRecord] = []
    setting = Setting(recipe, 0, Fabric(accelerator="cpu", devices=1), told.append)
    teacher = stages.fine_tune(part, setting, tmp_path / "teacher")
    with pytest.raises(
        UserError, match=r"stage1: R2 is .*raise the rate .*stage1\.lr=0\.001\), or standardise"
    ):
        stages.fn2en(part, teacher, setting, tmp_path)
    assert [record.epoch for record in told if record.stage == "stage1"] == [1, 2, 3]
