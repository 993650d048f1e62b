"""Recipes: strict reading, all faults at once, overrides, and the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet2expnet import recipes
from facenet2expnet.errors import UserError
from facenet2expnet.recipe import STAGES, AugmentRecipe, DistilRecipe, LossTerm, Recipe, Stage2Recipe


@pytest.mark.parametrize("name", recipes.presets())
def test_every_preset_parses_and_survives_saving(name: str, tmp_path: Path) -> None:
    recipe = recipes.preset(name)
    assert recipe.name == name
    recipes.save(recipe, tmp_path / "saved.toml")
    assert recipes.read(tmp_path / "saved.toml") == recipe
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe


def test_there_are_four_presets() -> None:
    assert recipes.presets() == ("best", "paper", "quick")


def test_paper_is_the_paper() -> None:
    paper = recipes.preset("paper")
    assert (paper.crop.stored_px, paper.crop.crop_px) == (256, 224)
    assert (paper.face_net.name, paper.face_net.tap, paper.face_net.fine_tuned) == ("vgg-face", "pool5", True)
    assert (paper.expnet.width, paper.expnet.hidden, paper.expnet.dropout) == (1.0, 256, 0.5)
    assert not paper.expnet.batch_norm
    first, second = paper.stage1, paper.stage2
    assert (first.losses, first.cached_views, first.unlabelled) == ((LossTerm("p-norm", 1.0),), 0, False)
    assert (second.distil_weight, second.soft_labels, second.standardised_input) == (0, 0, False)
    assert (first.lr, first.milestones, first.decay, first.epochs) == (1e-7, (100,), 0.1, 300)
    assert (second.lr, second.milestones, second.decay, second.epochs) == (1e-4, (20,), 0.1, 50)
    for stage in (first, second):
        assert (stage.optimiser, stage.momentum, stage.batch_size) == ("sgd", 0.9, 64)
        assert (stage.clip_norm, stage.patience) == (0, 0)
    assert paper.augment == AugmentRecipe(flip=0.5)
    assert not paper.needs_validation
    assert not paper.train_on_validation


def test_missing_numbers_have_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\n[stage2]\nepochs = 7\n')
    recipe = recipes.load(tmp_path / "mine.toml")
    assert (recipe.name, recipe.stage2.epochs, recipe.stage2.lr) == ("mine", 7, Stage2Recipe().lr)
    assert recipe.stage1 == DistilRecipe()
    assert (recipe.val_fraction, recipe.calibrate, recipe.train_on_validation) == (0.1, False, False)


def test_overrides_take_numbers_text_lists_and_tables() -> None:
    settings = ["stage1.epochs=10", "face_net.tap=level2", "stage1.milestones=[3, 5]", "stage1.schedule=step"]
    settings += ["name=mine", "crop.scale=1", "calibrate=true", "stage2.standardised_input=false", "expnet.start=none"]
    settings += ['stage1.losses=[{loss="p-norm"}, {loss="rkd", weight=0.5}]']
    recipe = recipes.override(recipes.preset("quick"), settings)
    assert (recipe.stage1.epochs, recipe.face_net.tap, recipe.name) == (10, "level2", "mine")
    assert recipe.stage1.milestones == (3, 5)
    assert (recipe.crop.scale, recipe.calibrate) == (1.0, True)
    assert recipe.stage1.losses == (LossTerm("p-norm", 1.0), LossTerm("rkd", 0.5))


def test_a_validation_part_is_needed_for_early_stopping_and_calibration() -> None:
    quick = recipes.preset("quick")
    assert not quick.needs_validation
    for setting in ("calibrate=true", *(f"{stage}.patience=3" for stage in STAGES)):
        assert recipes.override(quick, [setting]).needs_validation


def test_all_faults_are_named_at_once() -> None:
    values = {
        "stage1": {"epoch": 3, "lr": "fast", "epochs": -1, "losses": [{"loss": "mse"}]},
        "stage2": {"optimiser": "adam"},
        "scratch": {"distil_weight": 1.0},
        "colour": "red",
        "crop": {"scale": 0},
    }
    with pytest.raises(UserError) as caught:
        recipes.from_dict(values, where="mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    for part in (
        "stage1.epoch is unknown; did you mean epochs?",
        "stage1.lr is 'fast'",
        "stage1.epochs is -1",
        "stage1.losses.0.loss is 'mse'",
        "stage2.optimiser is 'adam'",
        "scratch.distil_weight is unknown",
        "colour is unknown",
        "scale is 0",
    ):
        assert part in message
    assert "\n" not in message


def test_a_setting_that_was_taken_out_is_read_if_it_was_off() -> None:
    """The models and starts of this package name them."""
    values = recipes.to_dict(recipes.preset("best"))
    values["stage2"] |= {"ema_decay": 0.0, "label_smoothing": 0}
    assert recipes.from_dict(values) == recipes.preset("best")
    values["stage2"]["ema_decay"] = 0.99
    with pytest.raises(UserError, match=r"stage2\.ema_decay is unknown"):
        recipes.from_dict(values)


def test_overrides_that_name_nothing_are_all_named() -> None:
    with pytest.raises(
        UserError,
        match=r"'stage1\.epoch=3' names no setting .*mean stage1\.epochs\?.*'foo' names no.*'crop=1' names no",
    ):
        recipes.override(recipes.preset("quick"), ["stage1.epoch=3", "foo", "crop=1"])


@pytest.mark.parametrize("stage", ["stage1", "scratch"])
def test_a_stage_has_no_fields_of_other_stages(stage: str) -> None:
    """Stage 1 reads no labels; the baseline has no teacher and nothing pretrained."""
    foreign = {"soft_labels", "distil_weight", "temperature", "standardised_input", "batch_norm"}
    foreign |= {"lr_factor_pretrained"} | ({"balance", "mixup"} if stage == "stage1" else set())
    assert not foreign & set(recipes.to_dict(Recipe())[stage])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("crop.crop_px=500", "crop_px is 500, expected 8 or more and at most stored_px"),
        ("crop.crop_px=16", "crop_px is 16, expected 32 or more: the net pools five times"),
        ("crop.detector=eyes", "detector is 'eyes', expected one of"),
        ("precision=half", "precision is 'half'"),
        ("val_fraction=0.6", "val_fraction is 0.6"),
        ("stage2.patience=-1", "stage2.patience is -1"),
        ("stage2.distil_weight=-1", "stage2.distil_weight is -1"),
        ("stage2.distil_weight=inf", "stage2.distil_weight is inf"),
        ("stage1.lr=nan", "stage1.lr is nan"),
        ("stage1.losses=[]", "stage1.losses is empty, expected one term or more"),
        ('stage1.losses=[{loss="rkd", weight=0.0}]', "stage1.losses.0.weight is 0.0"),
        ("stage1.milestones=[5,3]", "stage1.milestones is [5, 3], expected rising epochs"),
        ("stage1.milestones=[10]", "stage1.schedule is cosine, which uses none: set stage1.milestones=[]"),
        ("fine_tune.batch_size=1", "fine_tune.batch_size is 1, expected 2 or more: its batch norms"),
        ("stage2.batch_size=1", "stage2.batch_size is 1, expected 2 or more: its batch norms"),
        ("scratch.batch_size=1 expnet.batch_norm=false", "scratch.batch_size is 1, expected 2 or more"),
        (
            "stage1.warmup_epochs=1000 stage1.epochs=20",
            "stage1.warmup_epochs is 1000, expected less than stage1.epochs",
        ),
        ("stage1.mixed_views=0.01", "stage1.cached_views is 16, which makes 0 mixed views"),
        ("stage1.mixed_views=0.99", "stage1.cached_views is 16, which makes 16 mixed views"),
        ("stage1.mixed_views=0.5 stage1.cached_views=0", "expected stage1.cached_views above 0 with it"),
        (
            "stage1.epochs=0 expnet.start=none stage2.soft_labels=0.0",
            "stage1.epochs is 0, expected stage2.distil_weight or stage2.soft_labels above 0",
        ),
        ("stage2.soft_labels=0.5 face_net.fine_tuned=false", "expected face_net.fine_tuned = true with it"),
        ("stage1.losses=[{loss='rkd'}]", 'expected a term "standardised-l2" in stage1.losses with it'),
        ("stage2.batch_norm=frozen expnet.batch_norm=false", "expected expnet.batch_norm = true with it"),
        ("stage2.mixup=0.2 stage2.soft_labels=0.5", "expected stage1.cached_views = 0 with it"),
        (
            "face_net.teachers=2 face_net.fine_tuned=false stage2.soft_labels=0.0",
            "face_net.teachers is above 1, expected",
        ),
        ("stage2.mixup=0.2 stage2.distil_weight=1", "expected stage1.cached_views = 0 with it"),
        ("train_on_validation=true calibrate=true", "expected calibrate = false and no patience with it"),
        ("train_on_validation=true stage1.patience=3", "expected calibrate = false and no patience with it"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(settings: str, message: str) -> None:
    parts = [settings] if "[{" in settings else settings.split()
    with pytest.raises(UserError) as caught:
        recipes.override(recipes.preset("best"), parts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["fine_tune.batch_size=1", "face_net.head_norm=false"],
        ["fine_tune.batch_size=1", "face_net.fine_tuned=false", "face_net.teachers=1", "stage2.soft_labels=0.0"],
        ["stage2.batch_size=1", "stage2.batch_norm=frozen"],
        ["stage1.epochs=0", "stage2.soft_labels=0.5"],
        ["stage2.mixup=0.2", "stage2.soft_labels=0.5", "stage1.cached_views=0", "stage1.mixed_views=0.0"],
        ["stage1.warmup_epochs=1", "stage1.epochs=1"],
    ],
)
def test_numbers_that_do_go_together_are_accepted(settings: list[str]) -> None:
    recipe = recipes.to_dict(recipes.override(recipes.preset("best"), settings))
    section, key = settings[0].partition("=")[0].split(".")
    assert str(recipe[section][key]) == settings[0].partition("=")[2]


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("stage1 = [")
    with pytest.raises(UserError, match=r"broken\.toml: not a TOML file"):
        recipes.load(tmp_path / "broken.toml")
    with pytest.raises(UserError, match=r"missing\.toml: the recipe can't be read"):
        recipes.load(tmp_path / "missing.toml")
    with pytest.raises(UserError, match=r"no recipe is called 'fast'; there are .*quick"):
        recipes.load("fast")
