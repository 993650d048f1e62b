"""A stage 1 that learns nothing: when it is stopped, when it is left alone, what it is told to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import tiny
from facenet2expnet.errors import UserError
from facenet2expnet.recipe import RegressRecipe, preset
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.losses import (
    Cosine,
    FitNets,
    ObjectiveModule,
    PNorm,
    RelationalKD,
    SmoothL1,
    WeightedSum,
    build_sum,
)
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.standstill import Standstill, shows_in_r2
from facenet2expnet.training.teacher import TrainingPart


def tell(
    recipe: RegressRecipe,
    r2: list[float],
    objective: ObjectiveModule | None = None,
    losses: Sequence[float] = (),
) -> list[int]:
    """The epochs that a listener hears of; the objective is the paper's, as a recipe makes it, unless given.

    Without losses every epoch's is half of the one before.
    """
    heard: list[EpochRecord] = []
    watch = Standstill(
        recipe, objective or build_sum("p-norm(p=2)"), 25_088, batch_norm=False, listener=heard.append
    )
    for epoch, value in enumerate(r2, start=1):
        loss = losses[epoch - 1] if losses else 0.5**epoch
        watch(EpochRecord("stage1", epoch, recipe.epochs, loss, None, value, recipe.lr, 0.1))
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
    falling = [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    for clip_norm in (0.0, 5.0):
        with pytest.raises(
            UserError, match=r"lower the rate \(--set stage1\.lr=1e-08\) or clip .*clip_norm=1\)"
        ):
            tell(replace(SHORT, clip_norm=clip_norm), falling)
    for clip_norm in (0.5, 1.0):
        with pytest.raises(UserError, match=r"or warm it up for longer \(--set stage1\.warmup_epochs=3\)$"):
            tell(replace(SHORT, clip_norm=clip_norm), falling)


FLAT_LOSSES = [9.0, 0.8, 0.8, 0.7995, 0.81, 0.8] + [0.1] * 10


@pytest.mark.parametrize("name", ["cosine", "srd", "attention-transfer", "rkd", "cosine + 0.5 * rkd"])
def test_where_r2_says_nothing_a_loss_that_lies_flat_stops_the_stage(name: str) -> None:
    objective = build_sum(name)
    with pytest.raises(
        UserError,
        match=r"stage1: the loss is 0\.8 after 6 of 16 epochs and was 0\.8 after epoch 2: it learns nothing; raise the "
        r"rate \(1e-07; --set stage1\.lr=0\.001\)",
    ):
        tell(SHORT, [0.9] * 16, objective, FLAT_LOSSES)
    with pytest.raises(
        UserError, match=r"the loss is 1\.2 .* lower the rate \(--set stage1\.lr=1e-08\) or clip"
    ):
        tell(SHORT, [0.9] * 16, objective, [1.0, 0.8, 0.9, 1.0, 1.1, 1.2])


@pytest.mark.parametrize(
    "losses",
    [
        [0.8 * 0.997**epoch for epoch in range(16)],  # falls slowly
        [9.0, 0.8, 0.81, 0.79, 0.83, 0.82] + [0.8] * 10,  # has been lower, and may be noise
        [0.8] * 5,  # not looked at yet
        [0.0] * 16,  # agreed from the first
    ],
)
def test_where_r2_says_nothing_a_loss_that_falls_however_slowly_goes_on(losses: list[float]) -> None:
    told = tell(SHORT, [-5.0] * len(losses), build_sum("cosine"), losses)
    assert told == list(range(1, len(losses) + 1))
    short = RegressRecipe(epochs=3)
    assert tell(short, [-5.0] * 3, build_sum("cosine"), [0.8] * 3) == [1, 2, 3]


@pytest.mark.parametrize(("r2", "told"), [(0.0049, True), (0.0051, False)])
def test_a_stage_that_ends_with_nothing_explained_is_told_of(r2: float, told: bool) -> None:
    notes: list[str] = []
    recipe = RegressRecipe(epochs=8, warmup_epochs=1, lr=1e-3)
    watch = Standstill(recipe, FitNets(), 64, batch_norm=True, listener=None, note=notes.append)
    climbs = [-20.0, -2.0, -0.3, -0.1, -0.05, -0.02, -0.01, r2]
    records = [
        EpochRecord("stage1", epoch, recipe.epochs, 1.0, None, value, recipe.lr, 0.1)
        for epoch, value in enumerate(climbs, start=1)
    ]
    for record in records:
        watch(record)
    assert not notes
    watch.ended(records)
    assert len(notes) == told
    if told:
        assert "stage1 ended at an R2 of 0.0049" in notes[0]
        assert "--set stage1.epochs=16" in notes[0]
        assert "standardised-l2" in notes[0]


def test_a_stage_that_patience_ends_is_told_of_by_the_epoch_whose_weights_it_keeps() -> None:
    notes: list[str] = []
    recipe = RegressRecipe(epochs=40, lr=1e-3, patience=2)
    watch = Standstill(recipe, FitNets(), 64, batch_norm=True, listener=None, note=notes.append)
    records = [
        EpochRecord("stage1", epoch, 40, 1.0, None, r2, 1e-3, 0.1, inner)
        for epoch, (r2, inner) in enumerate([(-0.5, 2.0), (0.003, 1.0), (0.4, 1.1), (0.5, 1.2)], start=1)
    ]
    watch.ended(records)
    assert len(notes) == 1
    assert "stage1 ended at an R2 of 0.003" in notes[0]
    assert "learned. Raise the rate (0.001;" in notes[0]
    assert "more epochs" not in notes[0]
    watch.ended([*records[:1], replace(records[2], inner=0.9)])
    assert len(notes) == 1


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
    dropped = build_sum("0 * standardised-l2 + cosine", [torch.randn(8, 4)])
    assert not shows_in_r2(dropped)
    assert len(tell(SHORT, [0.0] * 16, dropped)) == 16
    assert shows_in_r2(build_sum("1e-3 * standardised-l2 + cosine", [torch.randn(8, 4)]))
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


@pytest.mark.usefixtures("tiny_face_net")
def test_a_flat_loss_stops_a_training_whose_objective_leaves_the_scale_open(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (24, 36, 36, 3), dtype=np.uint8)
    part = TrainingPart(pixels, np.arange(24) % 3, 3, torch.device("cpu"))
    still = [f"augment.{name}=0" for name in ("flip", "rotation_deg", "zoom", "brightness", "erasing")]
    recipe = tiny.tiny_recipe(
        *still, "crop.crop_px=36", "stage1.objective=cosine", "stage1.lr=1e-9", "stage1.epochs=4",
        "stage1.batch_size=24", "stage2.standardised_input=false",
    )  # fmt: skip
    setting = Setting(recipe, 0, Fabric(accelerator="cpu", devices=1))
    teacher = stages.fine_tune(part, setting, tmp_path / "teacher")
    with pytest.raises(UserError, match=r"stage1: the loss is .* after 3 of 4 epochs .*stage1\.lr=0\.001\)"):
        stages.fn2en(part, teacher, setting, tmp_path)


@pytest.mark.usefixtures("tiny_face_net")
@pytest.mark.parametrize(("weight", "told"), [(1e-6, True), (1, False)])
def test_one_stage_that_explains_nothing_is_told_of(tmp_path: Path, weight: float, told: bool) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 90, (24, 36, 36, 3), dtype=np.uint8)
    pixels[np.arange(24), ..., np.arange(24) % 3] += 120
    part = TrainingPart(pixels, np.arange(24) % 3, 3, torch.device("cpu"))
    recipe = tiny.tiny_recipe(
        "stage1.epochs=0", f"stage2.regress={weight}", "stage2.epochs=10", "stage2.lr=0.003"
    )
    notes: list[str] = []
    setting = Setting(recipe, 0, Fabric(accelerator="cpu", devices=1), note=notes.append)
    teacher = stages.fine_tune(part, setting, tmp_path / "teacher")
    stages.fn2en(part, teacher, setting, tmp_path)
    assert len(notes) == told
    if told:
        assert "stage2 ended at an R2 of" in notes[0]
        assert "Give the objective more weight (--set stage2.regress=1e-05)" in notes[0]
