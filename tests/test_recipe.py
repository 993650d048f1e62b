"""Recipes: strict reading, all faults at once, overrides, and the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet2expnet import recipe as recipes
from facenet2expnet.errors import UserError


@pytest.mark.parametrize("name", recipes.presets())
def test_every_preset_parses_and_survives_saving(name: str, tmp_path: Path) -> None:
    recipe = recipes.preset(name)
    assert recipe.name == name
    recipes.save(recipe, tmp_path / "saved.toml")
    assert recipes.read(tmp_path / "saved.toml") == recipe


def test_presets_are_the_three_named_in_the_design() -> None:
    assert {"normalised", "paper", "quick"} <= set(recipes.presets())


def test_paper_is_the_paper() -> None:
    paper = recipes.preset("paper")
    assert (paper.crop.stored_px, paper.crop.crop_px) == (256, 224)
    assert (paper.face_net.name, paper.face_net.tap) == ("vgg-face", "pool5")
    assert (paper.expnet.width, paper.expnet.hidden, paper.expnet.dropout) == (1.0, 256, 0.5)
    assert not paper.expnet.batch_norm
    first, second = paper.stage1, paper.stage2
    assert (first.objective, first.views) == ("p-norm(p=2)", 0)
    assert (second.regress, second.soft_labels) == (0, 0)
    assert (first.lr, first.milestones, first.decay, first.epochs) == (1e-7, (100,), 0.1, 300)
    assert (second.lr, second.milestones, second.decay, second.epochs) == (1e-4, (20,), 0.1, 50)
    for stage in (first, second):
        assert (stage.optimiser, stage.momentum, stage.batch_size) == ("sgd", 0.9, 64)
        assert stage.clip_norm == 0
    assert paper.augment == recipes.AugmentRecipe(flip=0.5)


def test_overrides_take_numbers_text_and_lists() -> None:
    recipe = recipes.override(
        recipes.preset("quick"),
        [
            "stage1.epochs=10", "face_net.tap=level1", "stage1.milestones=[3, 5]", "stage1.schedule=step", "name=mine",
            "crop.scale=1",
        ],
    )  # fmt: skip
    assert (recipe.stage1.epochs, recipe.face_net.tap, recipe.name) == (10, "level1", "mine")
    assert recipe.stage1.milestones == (3, 5)
    assert recipe.crop.scale == 1.0


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        recipes.from_dict(
            {
                "stage1": {"epoch": 3, "lr": "fast", "epochs": -1},
                "stage2": {"optimiser": "adam"},
                "colour": "red",
            },
            where="mine.toml",
        )
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    for part in (
        "stage1.epoch is unknown; did you mean epochs?",
        "stage1.lr is 'fast'",
        "stage1.epochs is -1",
        "stage2.optimiser is 'adam'",
        "colour is unknown",
    ):
        assert part in message
    assert "\n" not in message


def test_a_sum_and_several_layers_are_plain_text_on_the_command_line() -> None:
    settings = [
        "stage1.objective=phi-s(per=unit) + 0.5 * rkd",
        "face_net.tap=level1 + level2",
        "stage1.epochs=0",
    ]
    recipe = recipes.override(recipes.preset("normalised"), [*settings, "stage2.regress=1"])
    assert recipe.stage1.objective == "phi-s(per=unit) + 0.5 * rkd"
    assert recipes.split_taps(recipe.face_net.tap) == ("level1", "level2")
    assert recipes.split_taps(" ") == ()


def test_overrides_that_name_nothing_are_all_named() -> None:
    with pytest.raises(UserError, match=r"'stage1\.epoch=3' names no number.*'foo' names no number"):
        recipes.override(recipes.preset("quick"), ["stage1.epoch=3", "foo"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("crop.crop_px=500", "crop_px is 500, expected 8 or more and at most stored_px"),
        ("stage1.milestones=[5,3]", r"stage1\.milestones is \[5, 3\], expected rising epochs"),
        (
            "stage1.milestones=[10]",
            r"stage1\.schedule is cosine, which looks at none: set stage1\.milestones=\[\]",
        ),
        ("stage1.label_smoothing=0.1", r"stage1\.label_smoothing is 0\.1, expected 0\.0: it reads no labels"),
        ("stage1.balance=sampler", r"stage1\.balance is sampler, expected none: it reads no labels"),
        ("fine_tune.batch_size=1", r"fine_tune\.batch_size is 1, expected 2 or more: its batch norms"),
        ("stage2.batch_size=1", r"stage2\.batch_size is 1, expected 2 or more: its batch norms"),
        (
            "stage1.blend=0.01",
            r"stage1\.blend is 0\.01 and stage1\.views is 16, which makes 0 of them blends",
        ),
        ("stage1.blend=0.99", r"stage1\.views is 16, which makes 16 of them blends"),
        ("stage1.warmup_epochs=1000", r"stage1\.warmup_epochs is 1000, expected less than stage1\.epochs"),
        ("stage1.mixup=0.2", r"stage1\.mixup is above 0, expected 0: stage1\.blend"),
        ('scratch.batch_norm="frozen"', r'scratch\.batch_norm is "frozen", expected "trainable"'),
        ('stage1.batch_norm="frozen"', r'stage1\.batch_norm is "frozen", expected "trainable"'),
        ("stage2.patience=-1", r"stage2\.patience is -1"),
        ("stage2.inner_share=1", r"stage2\.inner_share is 1"),
        ("scratch.soft_labels=0.5", "the baseline has no teacher"),
        ("scratch.regress=1", r"scratch\.regress is above 0, expected 0"),
        ("stage1.epochs=0", r"stage1\.epochs is 0, expected stage2\.regress or stage2\.soft_labels above 0"),
        ("stage2.regress=-1", r"stage2\.regress is -1"),
        ("crop.detector=eyes", "detector is 'eyes', expected one of"),
        ("precision=half", "precision is 'half'"),
    ],
)
def test_contradictions_are_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipes.override(recipes.preset("normalised"), [setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["stage2.mixup=0.2", "stage2.soft_labels=0.5"],
            r"stage2\.mixup and stage2\.soft_labels are above 0, expected stage1\.views = 0 with them",
        ),
        (
            ["stage2.mixup=0.2", "stage2.soft_labels=0.5", "stage2.regress=1"],
            r"stage2\.mixup and stage2\.soft_labels and stage2\.regress are above 0, expected stage1\.views = 0",
        ),
        (
            ["stage1.blend=0.5", "stage1.views=0"],
            r"stage1\.blend is above 0, expected stage1\.views above 0",
        ),
        (
            ["stage2.batch_norm=frozen", "expnet.batch_norm=false"],
            r'stage2\.batch_norm is "frozen", expected expnet\.batch_norm = true',
        ),
        (
            ["stage1.patience=3", "stage2.patience=3", "stage2.inner_share=0.2"],
            r"stage1\.inner_share is 0\.1, stage2\.inner_share is 0\.2, expected one number",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipes.override(recipes.preset("normalised"), settings)


def test_the_baseline_may_watch_a_share_of_its_own_and_idle_shares_may_differ() -> None:
    settings = [
        "stage2.patience=3",
        "scratch.patience=3",
        "scratch.inner_share=0.2",
        "stage1.inner_share=0.3",
    ]
    assert recipes.override(recipes.preset("normalised"), settings).scratch.inner_share == 0.2


def test_unreadable_recipes(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("stage1 = [")
    with pytest.raises(UserError, match=r"broken.toml: not a TOML file"):
        recipes.load(tmp_path / "broken.toml")
    with pytest.raises(UserError, match=r"missing.toml: the recipe can't be read"):
        recipes.load(tmp_path / "missing.toml")
    with pytest.raises(UserError, match=r"no recipe is called 'fast'; there are .*quick"):
        recipes.load("fast")
