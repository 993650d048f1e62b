"""Ablations: one thing changed at a time, shared trainings run once, resuming with more changes."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tiny
from facenet2expnet import recipes
from facenet2expnet.crop import Framing
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import inputs
from facenet2expnet.experiment.ablation import ablate
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.inputs import load_pictures
from facenet2expnet.experiment.status import read_status
from facenet2expnet.experiment.variants import expand_doubling, training_key, vary
from facenet2expnet.files import folder_lock
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.report.ablation_page import axis_rows, read_ablation
from facenet2expnet.training import classify, distil

pytestmark = pytest.mark.usefixtures("tiny_face_net")
CPU: dict[str, Any] = {"device": "cpu", "threads": 1}
RKD = 'stage1.losses=[{loss="rkd"}] & stage2.standardised_input=false'
P_NORM = 'stage1.losses=[{loss="p-norm"}] & stage2.standardised_input=false'
SAME = 'stage1.losses=[{loss="standardised-l2"}]'


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("ablation") / "faces", each=6)


@pytest.fixture(scope="module")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two axes over two folds and two seeds, with the scratch baseline."""
    tiny.register_tiny()
    out = tmp_path_factory.mktemp("finished") / "ablation"
    return ablate(
        faces, [P_NORM, SAME, "stage2.lr=0.002"], recipe=tiny.tiny_recipe(), out=out, methods=("scratch", "fn2en"),
        folds=2, seeds=(0, 1), **CPU,
    )  # fmt: skip


class Trained:
    """Remembers the trainings whose epochs ran, by their titles."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        if "fold" in what and what not in self.titles:
            self.titles.append(what)

    @property
    def methods(self) -> list[str]:
        return [title.partition(",")[0] for title in self.titles]


def test_one_change_at_a_time_and_the_recipe_itself_first() -> None:
    base = tiny.tiny_recipe()
    variants = vary(base, ["expnet.width=0.2", "expnet.width=0.3", "face_net.tap=early", "expnet.width=0.2"])
    assert [(v.axis, v.value) for v in variants] == [
        ("", ""), ("expnet.width", "0.2"), ("expnet.width", "0.3"), ("face_net.tap", "early"),
    ]  # fmt: skip
    assert [v.recipe.expnet.width for v in variants] == [0.1, 0.2, 0.3, 0.1]
    assert [v.recipe.face_net.tap for v in variants] == ["late", "late", "late", "early"]


def test_numbers_that_change_together_are_one_variant() -> None:
    _, variant = vary(tiny.tiny_recipe(), ["crop.crop_px=64 & crop.stored_px=72"])
    assert (variant.axis, variant.value) == ("crop.crop_px", "64 & crop.stored_px=72")
    assert (variant.recipe.crop.crop_px, variant.recipe.crop.stored_px) == (64, 72)


def test_another_recipe_is_an_axis_and_takes_the_settings_too() -> None:
    settings = ["expnet.width=0.2"]
    variants = vary(recipes.preset("best"), ["recipe=quick"], settings)
    assert variants[1].recipe == recipes.override(recipes.preset("quick"), settings)


def test_a_learning_curve_doubles_up_to_the_whole_training_part() -> None:
    _, variant = vary(tiny.tiny_recipe(), ["pictures=3.."])
    assert [(v.value, v.pictures) for v in expand_doubling(variant, 13)] == [("3", 3), ("6", 6), ("12", 12)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "no change was given"),
        (["stage2.lr"], "changes nothing"),
        (["pictures=many"], "expected a number of training pictures"),
        (["breadth=1"], "names no setting of the recipe"),
        (["expnet.width=wide"], "width"),
        (["recipe=worst"], "no recipe is called 'worst'"),
    ],
)
def test_changes_that_can_not_be_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vary(tiny.tiny_recipe(), changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("face_net.tap=nose", "late"),
        ("pictures=1000", "expected 1 to 12"),
        ("crop.detector=viola-jones", "crop.detector=viola-jones: none of the 18 pictures"),
        ("crop.crop_px=1000000 & crop.stored_px=1125000", "stored_px is 1125000, expected at most 4096"),
    ],
)
def test_nothing_is_written_for_a_change_that_can_not_be(
    change: str, message: str, faces: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ablate(faces, [change], recipe=tiny.tiny_recipe(), out=tmp_path / "out", folds=3, **CPU)
    assert not (tmp_path / "out").exists()


def test_pictures_that_do_not_fit_in_memory_are_reported_before_anything_is_written(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(inputs, "load_dataset", fail)
    with pytest.raises(UserError, match=r"crop\.stored_px is 36, and .* fit in memory"):
        ablate(faces, ["stage2.epochs=2"], recipe=tiny.tiny_recipe(), out=tmp_path / "out", folds=3, **CPU)
    assert not (tmp_path / "out").exists()


def test_trainings_that_see_the_same_numbers_are_one() -> None:
    base = tiny.tiny_recipe()
    rkd = vary(base, [RKD])[1].recipe
    assert training_key("fine-tune", base) == training_key("fine-tune", rkd)
    assert training_key("scratch", base) == training_key("scratch", rkd)
    assert training_key("fn2en", base) != training_key("fn2en", rkd)
    tap = recipes.override(base, ["face_net.tap=early"])
    assert training_key("fine-tune", base) == training_key("fine-tune", tap)
    assert training_key("scratch", base) != training_key("scratch", tap)  # its bridge has another shape
    assert training_key("fn2en", base) != training_key("fn2en", recipes.override(base, ["fine_tune.lr=0.5"]))
    started = recipes.override(base, ["expnet.start=starts/mine"])  # the baselines begin without it
    assert training_key("scratch", base) == training_key("scratch", started)
    assert training_key("fn2en", base) != training_key("fn2en", started)
    stops = recipes.override(base, ["stage2.patience=2"])  # keeps a validation part out of the other stages
    assert training_key("fine-tune", base) != training_key("fine-tune", stops)


def test_the_table_agrees_with_the_predictions(finished: Path) -> None:
    table, predictions = (
        pd.read_csv(finished / "table.csv"),
        pd.read_parquet(finished / "predictions.parquet"),
    )
    assert len(table) == 8  # the recipe, two losses, a rate; times two methods
    for _, row in table.iterrows():
        own = predictions[predictions["method"] == f"{row['number']} {row['method']}"]
        runs = (own["truth"] == own["predicted"]).groupby([own["seed"], own["fold"]]).mean()
        assert len(runs) == 4
        assert row["accuracy"] == pytest.approx(runs.mean())
        assert row["std"] == pytest.approx(runs.groupby("seed").mean().std())
    assert table["r2"].notna().tolist() == (table["method"] == "fn2en").tolist()
    fn2en = table[table["method"] == "fn2en"].set_index("number")
    assert fn2en["difference"][1] == pytest.approx(fn2en["accuracy"][1] - fn2en["accuracy"][0])
    assert np.isnan(fn2en["difference"][0])
    assert fn2en["folder"][0] == fn2en["folder"][2] != fn2en["folder"][1]  # the base recipe has this value
    assert fn2en["difference"][2] == 0


def test_an_axis_shows_the_unchanged_recipe_of_every_method(finished: Path) -> None:
    """Also of scratch, whose training does not depend on this axis and so is shared by both values."""
    rows = axis_rows(read_ablation(finished), "stage2.lr")
    assert sorted(zip(rows["method"], rows["value"], strict=True)) == [
        ("fn2en", "0.001"), ("fn2en", "0.002"), ("scratch", "0.001"), ("scratch", "0.002"),
    ]  # fmt: skip


def test_shared_trainings_are_run_once_and_views_are_deleted(finished: Path) -> None:
    trainings = finished / "trainings"
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in trainings.iterdir())
    assert kinds == ["fine-tune", "fn2en", "fn2en", "fn2en", "scratch"]
    assert not list(trainings.rglob("views*"))


def test_a_training_of_an_ablation_is_that_of_a_comparison(finished: Path, faces: Path, tmp_path: Path) -> None:
    """Sharing the fine-tuned face net and its views must not change a single prediction."""
    recipe = recipes.override(tiny.tiny_recipe(), P_NORM.split(" & "))
    run = compare(faces, recipe=recipe, out=tmp_path / "run", methods=("fn2en",), folds=2, seeds=(0, 1), **CPU)
    alone = pd.read_parquet(run / "predictions.parquet").query("method == 'fn2en'")
    shared = pd.read_parquet(finished / "predictions.parquet").query("method == '1 fn2en'")
    order, columns = ["seed", "fold", "image"], ["p_anger", "p_happiness", "p_surprise"]
    left, right = alone.sort_values(order), shared.sort_values(order)
    assert left["image"].tolist() == right["image"].tolist()
    assert np.array_equal(left[columns].to_numpy(), right[columns].to_numpy())


def test_the_fine_tuned_face_net_is_a_training_of_its_own(faces: Path, tmp_path: Path) -> None:
    trained, out = Trained(), tmp_path / "out"
    ablate(faces, [RKD], recipe=tiny.tiny_recipe(), out=out, folds=2, first_folds=1, **CPU, progress=trained)
    assert trained.titles == [
        "fine-tune, fold fold-1, seed 0 (1 of 3)", "fn2en, fold fold-1, seed 0 (2 of 3)",
        "fn2en, fold fold-1, seed 0 (3 of 3)",
    ]  # fmt: skip
    assert set(pd.read_csv(out / "table.csv")["method"]) == {"fn2en"}  # the teacher has no row of its own


def test_resuming_with_another_change_trains_only_what_is_new(faces: Path, tmp_path: Path) -> None:
    common = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "out", "folds": 2, "first_folds": 1, **CPU}
    ablate(faces, [RKD], **common)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("result.json")}
    with pytest.raises(UserError, match="--resume"):
        ablate(faces, ["face_net.tap=early"], **common)
    trained = Trained()
    ablate(faces, ["face_net.tap=early"], resume=True, progress=trained, **common)
    assert trained.methods == ["fn2en"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["axis face_net.tap"].fillna("").tolist() == ["", "early"]
    with pytest.raises(UserError, match="started with other folds"):
        ablate(faces, [RKD], **(common | {"folds": 3}), resume=True)


def test_other_pictures_under_the_same_names_are_not_resumed(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces", each=6)
    common = {
        "recipe": tiny.tiny_recipe(),
        "out": tmp_path / "out",
        "methods": ("scratch",),
        "folds": 2,
        **CPU,
    }
    ablate(faces, ["scratch.lr=0.01"], **common)
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(faces / "anger" / "00.png")
    with pytest.raises(UserError, match="other pictures or weights of these names"):
        ablate(faces, ["scratch.lr=0.02"], resume=True, **common)


def test_a_change_of_the_crop_reads_the_pictures_again(faces: Path, tmp_path: Path) -> None:
    out = ablate(
        faces, ["crop.crop_px=48 & crop.stored_px=54"], recipe=tiny.tiny_recipe(), out=tmp_path / "out",
        methods=("scratch",), folds=2, first_folds=1, **CPU,
    )  # fmt: skip
    multiply_adds = pd.read_csv(out / "table.csv")["multiply_adds"]
    assert multiply_adds[1] > 1.5 * multiply_adds[0]


def test_a_manifest_in_a_folder_of_classes_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faces = tiny.write_faces(tmp_path / "faces", each=2)
    load_pictures(faces, tiny.tiny_recipe())
    assert not caplog.records
    (faces / "manifest.csv").write_text("image,label\n")
    load_pictures(faces, tiny.tiny_recipe())
    assert "not its manifest.csv" in caplog.text


def test_an_ablation_logs_and_shows_what_was_left_out(faces: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "faces"
    shutil.copytree(faces, pictures)
    (pictures / "anger" / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    ablate(
        pictures, ["scratch.lr=0.01"], recipe=tiny.tiny_recipe(), out=out, methods=("scratch",), folds=3,
        first_folds=1, **CPU,
    )  # fmt: skip
    assert [Path(image).name for image in pd.read_csv(out / "skipped.csv")["image"]] == ["broken.png"]
    log = (out / "log.txt").read_text()
    assert "Pictures that were left out: 1" in log
    assert "Only the first 1 of 3 folds were run." in log
    page = (out / "report.html").read_text()
    assert "Only the first 1 of 3 folds were run." in page


def test_one_process_at_a_time_works_in_a_folder(faces: Path, tmp_path: Path) -> None:
    common = {"recipe": tiny.tiny_recipe(), "methods": ("scratch",), "folds": 2, **CPU}
    out = tmp_path / "ablation"
    with folder_lock(out, "busy"), pytest.raises(UserError, match="another process works here"):
        ablate(faces, ["scratch.lr=0.01"], out=out, **common)
    ablate(faces, ["scratch.lr=0.01"], out=out, **common)


def test_a_learning_curve_has_an_axis(faces: Path, tmp_path: Path) -> None:
    out = ablate(
        faces, ["pictures=3.."], recipe=tiny.tiny_recipe(), out=tmp_path / "out", methods=("scratch",), folds=3,
        first_folds=1, **CPU,
    )  # fmt: skip
    assert json.loads((out / "ablation.json").read_text())["axes"] == {"pictures": ["3", "6", "12"]}
    assert pd.read_csv(out / "table.csv")["pictures"].tolist() == [12, 3, 6, 12]


def test_a_stopped_variant_does_not_stop_the_others(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = distil.DistilStage.loss
    monkeypatch.setattr(
        distil.DistilStage, "loss", lambda self, e: loss(self, e) * (math.nan if self.recipe.lr == 0.5 else 1)
    )
    common = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "out", "folds": 2, "first_folds": 1, **CPU}
    changes = ["stage1.lr=0.5", "stage1.lr=0.001", "stage1.clip_norm=2"]
    ablate(faces, changes, **common)
    table = pd.read_csv(tmp_path / "out" / "table.csv", dtype={"stopped": str}).fillna({"stopped": ""})
    assert ["the loss of epoch 1, step 1 is nan" in why for why in table["stopped"]] == [
        False,
        True,
        False,
        False,
    ]
    assert table["accuracy"].isna().tolist() == [False, True, False, False]
    trained = Trained()
    ablate(faces, changes, resume=True, progress=trained, **common)
    assert not trained.titles  # finished trainings are skipped, and a stopped one is not tried again


def test_a_stopped_training_leaves_out_the_other_folds_and_seeds_of_its_row(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = classify.ClassifyStage.loss
    monkeypatch.setattr(
        classify.ClassifyStage,
        "loss",
        lambda self, e: loss(self, e) * (math.nan if self.recipe.lr == 0.5 else 1),
    )
    out = ablate(
        faces, ["scratch.lr=0.5", "fine_tune.lr=0.5"], recipe=tiny.tiny_recipe(), out=tmp_path / "out",
        methods=("scratch", "fn2en"), folds=2, seeds=(0, 1), **CPU,
    )  # fmt: skip
    table = pd.read_csv(out / "table.csv").fillna({"stopped": ""})
    stopped = {(row["number"], row["method"]) for _, row in table.iterrows() if row["stopped"]}
    assert stopped == {(1, "scratch"), (2, "fn2en")}  # FN2EN without its face net has no result either
    assert len(list(out.rglob("stopped.txt"))) == 2
    assert len(list(out.rglob("result.json"))) == 4 * 3  # scratch, fine-tune and fn2en of the base recipe
    states = Counter(job.state for job in read_status(out))
    assert states == {"done": 12, "failed": 2, "left out": 10}


def test_a_stopped_baseline_does_not_stop_fn2en_with_the_pretrained_face_net(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = classify.ClassifyStage.loss
    monkeypatch.setattr(
        classify.ClassifyStage, "loss", lambda self, e: loss(self, e) * (math.nan if self.name == "fine_tune" else 1)
    )
    recipe = tiny.tiny_recipe("face_net.fine_tuned=false")
    out = ablate(
        faces, ["stage2.lr=0.002"], recipe=recipe, out=tmp_path / "out", methods=("fine-tune", "fn2en"), folds=2,
        first_folds=1, **CPU,
    )  # fmt: skip
    table = pd.read_csv(out / "table.csv").fillna({"stopped": ""})
    assert table["accuracy"].notna().tolist() == (table["method"] == "fn2en").tolist()


def test_near_duplicates_are_taken_out_of_every_variant_on_request(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces", each=6)
    for name in tiny.CLASSES:  # a slightly brighter copy of a picture of each class
        brighter = np.asarray(Image.open(faces / name / "00.png")).clip(0, 250) + 2
        Image.fromarray(brighter.astype(np.uint8)).save(faces / name / "07.png")
    common = {"recipe": tiny.tiny_recipe(), "methods": ("scratch",), "folds": 2, **CPU}
    for drop_near in (False, True):
        out = ablate(faces, ["scratch.lr=0.01"], out=tmp_path / str(drop_near), drop_near=drop_near, **common)
        assert (len(pd.read_csv(out / "copies.csv")) > 0) == drop_near


def test_the_models_know_how_tightly_their_pictures_are_cut(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a comparison do (see there for real numbers), and at every crop."""

    def estimate(pixels: np.ndarray, rows: np.ndarray) -> Framing:
        return Framing("mtcnn", (0.5, 0.5), pixels.shape[1] / 100)

    monkeypatch.setattr(inputs, "estimate_framing", estimate)
    short = [f"{stage}.epochs=1" for stage in ("scratch", "fine_tune", "stage1", "stage2")]
    out = ablate(
        faces, ["crop.crop_px=40 & crop.stored_px=44"], recipe=tiny.tiny_recipe(*short), out=tmp_path / "ablation",
        methods=("scratch",), folds=2, first_folds=1, **CPU,
    )  # fmt: skip
    contracts = [load_model(path.parent).contract for path in out.rglob("model.json")]
    found = {contract.stored_px: contract.framing and contract.framing.size for contract in contracts}
    assert found == {36: 0.36, 44: 0.44}
