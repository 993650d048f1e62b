"""Ablations: one thing changed at a time, shared trainings done once, honest sharing, resuming with more axes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

import tiny
from facenet2expnet import recipe as recipes
from facenet2expnet.data import splits
from facenet2expnet.data.manifest import from_folder
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.ablation import Axis, ablate, key, vary
from facenet2expnet.experiment.reporter import Reporter, Training
from facenet2expnet.experiment.run import Machine, compare, load_pictures
from facenet2expnet.training import stages

pytestmark = pytest.mark.usefixtures("tiny_face_net")
CPU = Machine("cpu", 1)


class Ears(Reporter):
    """Remembers the trainings that were begun and those whose epochs ran."""

    def __init__(self) -> None:
        self.begun: list[Training] = []
        self.trained: set[tuple[str, int]] = set()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, training: Training) -> None:
        self.begun.append(training)

    def epoch(self, training: Training, record: object) -> None:
        self.trained.add((training.method, training.number))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("ablation") / "faces", each=6)


@pytest.fixture(scope="module")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two axes over two folds and two seeds, with the scratch baseline."""
    tiny.register_tiny()
    out = tmp_path_factory.mktemp("finished") / "ablation"
    axes = [Axis("objective", ("p-norm", "standardised-l2")), Axis("stage2.lr", ("0.002",))]
    return ablate(
        faces,
        axes,
        recipe=tiny.tiny_recipe(),
        out=out,
        methods=("scratch", "fn2en"),
        folds=2,
        seeds=(0, 1),
        machine=CPU,
    )


def test_one_axis_at_a_time_and_the_recipe_itself_first() -> None:
    base = tiny.tiny_recipe()
    variants = vary(base, [Axis("width", ("0.2", "0.3")), Axis("tap", ("early",))])
    assert [v.values for v in variants] == [{}, {"width": "0.2"}, {"width": "0.3"}, {"tap": "early"}]
    assert [v.recipe.expnet.width for v in variants] == [0.1, 0.2, 0.3, 0.1]
    assert [v.recipe.face_net.tap for v in variants] == ["late", "late", "late", "early"]


def test_values_of_an_axis_that_say_the_same_are_one_row() -> None:
    axes = [Axis("expnet.width", ("0.2", "0.20", "0.3")), Axis("pictures", ("4", "04"))]
    variants = vary(tiny.tiny_recipe(), axes)
    assert [v.values for v in variants[1:]] == [
        {"expnet.width": "0.2"}, {"expnet.width": "0.3"}, {"pictures": "4"},
    ]  # fmt: skip
    assert len(vary(tiny.tiny_recipe(), axes, cross=True)) == 3


def test_crossed_axes_give_every_combination() -> None:
    axes = [Axis("width", ("0.2", "0.3")), Axis("pictures", ("4", "8"))]
    variants = vary(tiny.tiny_recipe(), axes, cross=True)
    assert [(v.recipe.expnet.width, v.pictures) for v in variants] == [
        (0.1, None), (0.2, 4), (0.2, 8), (0.3, 4), (0.3, 8),
    ]  # fmt: skip


def test_an_input_size_takes_its_margin_along_and_a_face_net_its_weights() -> None:
    axes = [Axis("input-size", ("64",)), Axis("face-net", ("vgg-face=vgg.pth",))]
    _, larger, other = vary(tiny.tiny_recipe(), axes)
    assert (larger.recipe.crop.crop_px, larger.recipe.crop.stored_px) == (64, 72)
    assert (other.recipe.face_net.name, other.recipe.face_net.weights) == ("vgg-face", "vgg.pth")
    assert other.recipe.face_net.tap == ""


def test_the_recipes_own_face_net_keeps_its_layer() -> None:
    base = recipes.override(tiny.tiny_recipe(), ["face_net.tap=early"])
    _, same = vary(base, [Axis("face-net", (base.face_net.name,))])
    assert same.recipe == base


@pytest.mark.parametrize("name", ["onnx:face.onnx", "onnx:https://host/face.onnx#sha256=ab12"])
def test_a_face_net_through_onnx_teaches_as_it_came(name: str) -> None:
    base = recipes.override(tiny.tiny_recipe(), ["stage1.views=2", "stage2.soft_labels=0.5"])
    _, other = vary(base, [Axis("face-net", (name,))])
    assert (other.recipe.face_net.name, other.recipe.face_net.weights) == (name, "")
    assert not other.recipe.face_net.fine_tuned
    assert other.recipe.stage2.soft_labels == 0


def test_a_layer_of_another_face_net_is_kept_whatever_the_order_of_the_axes() -> None:
    axes = [Axis("tap", ("early",)), Axis("face-net", ("tiny",))]
    for order in (axes, axes[::-1]):
        crossed = vary(tiny.tiny_recipe(), order, cross=True)[1].recipe.face_net
        assert (crossed.name, crossed.tap) == ("tiny", "early")


def test_a_scratch_net_whose_layer_is_chosen_on_another_face_net_is_another() -> None:
    chosen = recipes.override(tiny.tiny_recipe(), ["face_net.tap=auto"])
    other = recipes.override(chosen, ["fine_tune.lr=0.5"])
    assert key("scratch", chosen) != key("scratch", other)


def test_an_objective_without_standardised_features_does_not_ask_for_them() -> None:
    base = recipes.override(tiny.tiny_recipe(), ["stage2.standardised_input=true"])
    _, paper, standardised = vary(base, [Axis("objective", ("p-norm", "standardised-l2"))])
    assert not paper.recipe.stage2.standardised_input
    assert standardised.recipe.stage2.standardised_input


def test_another_recipe_is_an_axis_and_takes_the_settings_too() -> None:
    settings = ["expnet.width=0.2"]
    variants = vary(recipes.preset("best"), [Axis("recipe", ("normalised",))], settings=settings)
    assert variants[1].recipe == recipes.override(recipes.preset("normalised"), settings)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([], "one axis or more"),
        ([Axis("width", ())], "one value or more"),
        ([Axis("width", ("0.2",)), Axis("width", ("0.3",))], "given 2 times"),
        ([Axis("pictures", ("many",))], "expected a number of training pictures"),
        ([Axis("breadth", ("1",))], "names no number of the recipe"),
        ([Axis("width", ("wide",))], "width"),
        ([Axis("recipe", ("worst",))], "no recipe is called 'worst'"),
    ],
)
def test_axes_that_can_not_be_are_refused(axes: list[Axis], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vary(tiny.tiny_recipe(), axes)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (Axis("tap", ("nose",)), "late"),
        (Axis("objective", ("telepathy",)), "p-norm"),
        (Axis("pictures", ("1000",)), "expected 1 to 12"),
        # the base can be trained, so that this must be told before it is
        (Axis("crop.detector", ("viola-jones",)), "crop.detector=viola-jones: none of the 18 pictures"),
        (
            Axis("input-size", ("1000000",)),
            "input-size=1000000: crop.stored_px is 1125000, and .* fit in memory",
        ),
    ],
)
def test_nothing_is_written_for_a_value_that_can_not_be(
    axis: Axis, message: str, faces: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ablate(faces, [axis], recipe=tiny.tiny_recipe(), out=tmp_path / "out", folds=3, machine=CPU)
    assert not (tmp_path / "out").exists()


def test_trainings_that_see_the_same_numbers_are_one() -> None:
    base = tiny.tiny_recipe()
    objective = vary(base, [Axis("objective", ("srd",))])[1].recipe
    assert key("fine-tune", base) == key("fine-tune", objective)
    assert key("scratch", base) == key("scratch", objective)
    assert key("fn2en", base) != key("fn2en", objective)
    tap = recipes.override(base, ["face_net.tap=early"])
    assert key("fine-tune", base) == key("fine-tune", tap)
    assert key("scratch", base) != key("scratch", tap)  # its bridge has another shape
    assert key("fn2en", base) != key("fn2en", recipes.override(base, ["fine_tune.lr=0.5"]))


def test_the_table_holds_every_row_and_the_predictions_bear_it_out(finished: Path) -> None:
    table, predictions = (
        pd.read_csv(finished / "table.csv"),
        pd.read_parquet(finished / "predictions.parquet"),
    )
    assert len(table) == 8  # the recipe, two objectives, a rate; times two methods
    for _, row in table.iterrows():
        own = predictions[predictions["method"] == f"{row['number']} {row['method']}"]
        runs = (own["truth"] == own["predicted"]).groupby([own["seed"], own["fold"]]).mean()
        assert len(runs) == 4
        assert row["accuracy"] == pytest.approx(runs.mean())
        assert row["spread"] == pytest.approx(runs.groupby("seed").mean().std())
    assert table["r2"].notna().tolist() == (table["method"] == "fn2en").tolist()
    fn2en = table[table["method"] == "fn2en"].set_index("number")
    assert fn2en["difference"][1] == pytest.approx(fn2en["accuracy"][1] - fn2en["accuracy"][0])
    assert np.isnan(fn2en["difference"][0])


def test_a_value_that_the_recipe_has_anyway_is_the_recipe(finished: Path) -> None:
    table = pd.read_csv(finished / "table.csv")
    fn2en = table[table["method"] == "fn2en"].set_index("number")
    assert fn2en["folder"][0] == fn2en["folder"][2]
    assert fn2en["difference"][2] == 0
    assert fn2en["folder"][1] != fn2en["folder"][0]


def test_shared_trainings_are_done_once_and_views_are_cleared(finished: Path) -> None:
    trainings = finished / "trainings"
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in trainings.iterdir())
    assert kinds == ["fine-tune", "fn2en", "fn2en", "fn2en", "scratch"]
    assert not list(trainings.rglob("views*"))


def test_a_training_of_an_ablation_is_that_of_a_comparison(
    finished: Path, faces: Path, tmp_path: Path
) -> None:
    """Sharing the fine-tuned face net and its views must not change a single prediction."""
    recipe = recipes.override(
        tiny.tiny_recipe(), ["stage1.objective=p-norm", "stage2.standardised_input=false"]
    )
    run = compare(
        faces, recipe=recipe, out=tmp_path / "run", methods=("fn2en",), folds=2, seeds=(0, 1), machine=CPU
    )
    alone = pd.read_parquet(run / "predictions.parquet").query("method == 'fn2en'")
    shared = pd.read_parquet(finished / "predictions.parquet").query("method == '1 fn2en'")
    order, columns = ["seed", "fold", "image"], ["p_anger", "p_happiness", "p_surprise"]
    left, right = alone.sort_values(order), shared.sort_values(order)
    assert left["image"].tolist() == right["image"].tolist()
    assert np.array_equal(left[columns].to_numpy(), right[columns].to_numpy())


def test_the_fine_tuned_face_net_is_told_of_as_a_training_of_its_own(faces: Path, tmp_path: Path) -> None:
    ears = Ears()
    out = tmp_path / "out"
    axes = [Axis("objective", ("srd",))]
    ablate(
        faces, axes, recipe=tiny.tiny_recipe(), out=out, folds=2, first_folds=1, machine=CPU, reporter=ears
    )
    assert [(t.method, t.number, t.total) for t in ears.begun] == [
        ("fine-tune", 1, 3), ("fn2en", 2, 3), ("fn2en", 3, 3),
    ]  # fmt: skip
    assert ("fine-tune", 1) in ears.trained
    assert set(pd.read_csv(out / "table.csv")["method"]) == {"fn2en"}  # it has no row unless it is asked for


def test_resuming_with_another_axis_trains_only_what_is_new(faces: Path, tmp_path: Path) -> None:
    common = {
        "recipe": tiny.tiny_recipe(),
        "out": tmp_path / "out",
        "folds": 2,
        "first_folds": 1,
        "machine": CPU,
    }
    ablate(faces, [Axis("objective", ("srd",))], **common)  # type: ignore[arg-type]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("result.json")}
    with pytest.raises(UserError, match="--resume"):
        ablate(faces, [Axis("tap", ("early",))], **common)  # type: ignore[arg-type]
    ears = Ears()
    ablate(faces, [Axis("tap", ("early",))], resume=True, reporter=ears, **common)  # type: ignore[arg-type]
    assert [training.method for training in ears.begun] == ["fine-tune", "fn2en", "fn2en"]
    assert [method for method, _ in ears.trained] == ["fn2en"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert pd.read_csv(tmp_path / "out" / "table.csv")["axis tap"].fillna("").tolist() == ["", "early"]


def test_resuming_on_other_folds_is_refused(faces: Path, tmp_path: Path) -> None:
    common = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "out", "first_folds": 1, "machine": CPU}
    axes = [Axis("objective", ("srd",))]
    ablate(faces, axes, folds=2, **common)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="other pictures or folds"):
        ablate(faces, axes, folds=3, resume=True, **common)  # type: ignore[arg-type]


def labelled_and_not(folder: Path, *, shift: int = 0) -> Path:
    """A manifest of labelled faces with three pictures without a label, whose pixels depend on `shift`."""
    if not folder.exists():
        tiny.write_faces(folder, each=6)
    images = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("[ahs]*/*.png"))]
    labels = [image.split("/")[0] for image in images]
    rng = np.random.default_rng(shift)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        images.append(f"{number}.png")
        labels.append("")
    table = pd.DataFrame({"image": images, "label": labels})
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def test_other_pictures_without_a_label_are_another_training_where_they_take_part(tmp_path: Path) -> None:
    common = {
        "recipe": tiny.tiny_recipe(),
        "out": tmp_path / "out",
        "folds": 2,
        "first_folds": 1,
        "machine": CPU,
    }
    axes = [Axis("stage1.unlabelled", ("true",))]
    for shift, trained in ((0, 3), (0, 0), (1, 1)):
        ears = Ears()
        data = labelled_and_not(tmp_path / "faces", shift=shift)
        ablate(data, axes, resume=bool((tmp_path / "out").exists()), reporter=ears, **common)  # type: ignore[arg-type]
        assert len(ears.trained) == trained
    folders = {path.name for path in (tmp_path / "out" / "trainings").iterdir()}
    assert f"fn2en-{key('fn2en', tiny.tiny_recipe())}" in folders  # as in ablations of before
    assert len([name for name in folders if name.startswith("fn2en-")]) == 3


def test_a_manifest_in_a_folder_of_classes_is_pointed_at(tmp_path: Path) -> None:
    faces, ears = tiny.write_faces(tmp_path / "faces", each=2), Ears()
    load_pictures(faces, tiny.tiny_recipe(), ears)
    assert not ears.notes
    (faces / "manifest.csv").write_text("image,label\n")
    load_pictures(faces, tiny.tiny_recipe(), ears)
    assert "not its manifest.csv" in ears.notes[0]


def test_what_a_comparison_tells_first_an_ablation_tells_too(faces: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "faces"
    shutil.copytree(faces, pictures)
    (pictures / "anger" / "broken.png").write_bytes(b"no picture")
    recipe = recipes.override(tiny.tiny_recipe(), ["calibration_share=0.2"])
    out = tmp_path / "out"
    ablate(
        pictures, [Axis("scratch.lr", ("0.01",))], recipe=recipe, out=out, methods=("scratch",), folds=3,
        first_folds=1, machine=CPU,
    )  # fmt: skip
    skipped = pd.read_csv(out / "skipped.csv")
    assert [Path(image).name for image in skipped["image"]] == ["broken.png"]
    log = (out / "log.txt").read_text()
    assert "1 picture was left out" in log
    assert "Only the first 1 of 3 folds were done." in log
    assert "kept out of the training, to fit the temperature" in log
    page = (out / "report.html").read_text()
    assert "Only the first 1 of 3 folds were done." in page
    assert "1 picture was left out" in page


def test_one_process_at_a_time_works_in_a_folder(faces: Path, tmp_path: Path) -> None:
    common = {"recipe": tiny.tiny_recipe(), "methods": ("scratch",), "folds": 2, "machine": CPU}
    axes = [Axis("scratch.lr", ("0.01",))]
    ablation, run = tmp_path / "ablation", tmp_path / "run"
    with (
        begun_elsewhere(ablation / ".ablation.json.lock"),
        pytest.raises(UserError, match="another process is at"),
    ):
        ablate(faces, axes, out=ablation, **common)  # type: ignore[arg-type]
    with (
        begun_elsewhere(run / ".run.json.lock"),
        pytest.raises(UserError, match="another process is at work"),
    ):
        compare(faces, out=run, **common)  # type: ignore[arg-type]
    assert len([*ablation.iterdir(), *run.iterdir()]) <= 2  # the locks
    ablate(faces, axes, out=ablation, **common)  # type: ignore[arg-type]
    assert not list(ablation.glob(".*"))


@contextmanager
def begun_elsewhere(lock: Path) -> Iterator[None]:
    """Another process is at work in the lock's folder."""
    lock.parent.mkdir()
    with FileLock(lock):
        yield


def test_a_folder_that_can_not_be_made_is_told(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("a file")
    with pytest.raises(UserError, match=r"small.csv/x: can't be made: Not a directory"):
        ablate(
            faces, [Axis("scratch.lr", ("0.01",))], recipe=tiny.tiny_recipe(), out=tmp_path / "small.csv" / "x",
            methods=("scratch",), folds=2, machine=CPU,
        )  # fmt: skip


def test_the_same_steps_for_every_number_of_pictures(faces: Path, tmp_path: Path) -> None:
    ears = Ears()
    axes = [Axis("pictures", ("3..",))]
    ablate(
        faces, axes, recipe=tiny.tiny_recipe(), out=tmp_path / "out", methods=("scratch",), steps_of=6, folds=3,
        first_folds=1, machine=CPU, reporter=ears,
    )  # fmt: skip
    assert sorted((t.pictures, t.epochs) for t in ears.begun) == [(3, 4), (6, 2), (12, 1)]
    about = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert about["steps_of"] == 6
    assert about["axes"] == {"pictures": ["3", "6", "12"]}


def test_fewer_pictures_are_nested_and_keep_the_classes_in_proportion(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    for number, name in enumerate(("anger", "fear", "surprise")):
        tiny.write_faces(folder, each=4 * (number + 1), classes=(name,))
    manifest = from_folder(folder)
    rows = np.arange(len(manifest))
    small, large = splits.subsample(manifest, rows, 6), splits.subsample(manifest, rows, 12)
    assert set(small) <= set(large)
    assert np.bincount(manifest.labels[small]).tolist() == [1, 2, 3]
    assert np.bincount(manifest.labels[large]).tolist() == [2, 4, 6]
    assert splits.subsample(manifest, rows, 24).tolist() == rows.tolist()
    for count in (0, 25):
        with pytest.raises(UserError, match="expected 1 to 24"):
            splits.subsample(manifest, rows, count)


def test_a_variant_that_is_stopped_does_not_stop_the_others(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = stages.Regression.loss
    monkeypatch.setattr(
        stages.Regression, "loss", lambda self, e: loss(self, e) * (math.nan if self.recipe.lr == 0.5 else 1)
    )
    axes = [Axis("stage1.lr", ("0.5", "0.001")), Axis("stage1.clip_norm", ("2",))]
    common = {
        "recipe": tiny.tiny_recipe(),
        "out": tmp_path / "out",
        "folds": 2,
        "first_folds": 1,
        "machine": CPU,
    }
    ablate(faces, axes, **common)  # type: ignore[arg-type]
    table = pd.read_csv(tmp_path / "out" / "table.csv", dtype={"stopped": str}).fillna({"stopped": ""})
    assert ["the loss of epoch 1 is nan" in why for why in table["stopped"]] == [False, True, False, False]
    assert table["accuracy"].isna().tolist() == [False, True, False, False]
    ears = Ears()
    ablate(faces, axes, resume=True, reporter=ears, **common)  # type: ignore[arg-type]
    # those that had ended, and their face net; what was stopped is not tried again
    assert [training.method for training in ears.begun] == ["fine-tune", "fn2en", "fn2en", "fn2en"]
    assert not ears.trained


def test_a_variant_that_does_not_fit_in_memory_is_stopped(faces: Path, tmp_path: Path) -> None:
    ablate(
        faces, [Axis("expnet.hidden", ("99999999999",))], recipe=tiny.tiny_recipe(), out=tmp_path / "out",
        methods=("scratch",), folds=2, machine=CPU,
    )  # fmt: skip
    stopped = pd.read_csv(tmp_path / "out" / "table.csv", dtype={"stopped": str})["stopped"].fillna("")
    assert ["does not fit in memory" in why for why in stopped] == [False, True]


def test_what_is_stopped_once_trains_no_other_fold_or_seed(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = stages.Classification.loss
    monkeypatch.setattr(
        stages.Classification,
        "loss",
        lambda self, e: loss(self, e) * (math.nan if self.recipe.lr == 0.5 else 1),
    )
    ears = Ears()
    axes = [Axis("scratch.lr", ("0.5",)), Axis("fine_tune.lr", ("0.5",))]
    ablate(
        faces, axes, recipe=tiny.tiny_recipe(), out=tmp_path / "out", methods=("scratch", "fn2en"), folds=2,
        seeds=(0, 1), machine=CPU, reporter=ears,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / "table.csv").fillna({"stopped": ""})
    stopped = {(row["number"], row["method"]) for _, row in table.iterrows() if row["stopped"]}
    assert stopped == {(1, "scratch"), (2, "fn2en")}  # FN2EN without its face net has no result, either
    methods = [training.method for training in ears.begun]
    assert methods.count("scratch") == 4 + 1
    assert methods.count("fine-tune") == 4 + 1
    assert methods.count("fn2en") == 4


def test_early_stopping_anywhere_is_another_fine_tuned_face_net() -> None:
    base = tiny.tiny_recipe()
    watched = recipes.override(base, ["stage1.patience=2"])
    assert key("fine-tune", base) != key("fine-tune", watched)
    assert key("scratch", base) == key("scratch", watched)
