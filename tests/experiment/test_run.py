"""Runs: what a folder holds, honest splits, resuming only what was begun, nothing half-written on bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

import facenet2expnet
import tiny
from facenet2expnet.data import splits
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import job
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.job import (
    Cut,
    Job,
    _inner_rows,
    _unlabelled,
    check_parts,
    with_calibration,
)
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.experiment.reporter import Reporter, Training
from facenet2expnet.experiment.run import Machine, compare, train
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.predict.recognizer import class_scores
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord

pytestmark = pytest.mark.usefixtures("tiny_face_net")
CPU = Machine("cpu", 1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("run") / "faces mit Ümläuten")


def with_subjects(faces: Path, folder: Path) -> Path:
    """The same faces as a CSV with four subjects."""
    table = read_manifest(faces).table
    table["subject"] = [f"S{number % 4}" for number in range(len(table))]
    table["image"] = [str(faces / image) for image in table["image"]]
    table.to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


class Ears(Reporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.trainings: list[Training] = []
        self.epochs: list[EpochRecord] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, training: Training) -> None:
        self.trainings.append(training)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self.epochs.append(record)


def test_compare_leaves_a_whole_run_folder(faces: Path, tmp_path: Path) -> None:
    data = with_subjects(faces, tmp_path)
    ears = Ears()
    run = compare(data, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, machine=CPU, reporter=ears)
    present = {path.name for path in run.iterdir()}
    assert present >= {
        "run.json", "recipe.toml", "manifest.csv", "manifest.json", "skipped.csv", "folds.json", "log.txt",
        "audit.json", "predictions.parquet", "metrics.json", "history.csv", "sizes.json", "report.html",
    }  # fmt: skip
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert set(predictions["method"]) == {"scratch", "fine-tune", "fn2en"}
    for _, rows in predictions.groupby("method"):
        assert sorted(rows["image"]) == sorted(read_manifest(run / "manifest.csv").table["image"])
    assert np.allclose(predictions.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    for name, fold in predictions.groupby("fold"):
        others = predictions[predictions["fold"] != name]
        assert not set(fold["subject"]) & set(others["subject"])
    about = json.loads((run / "run.json").read_text())
    assert about["finished"]
    assert about["manifest"]["subjects"] == 4
    assert about["threads"] == 1
    assert about["seconds"] > 0
    metrics = json.loads((run / "metrics.json").read_text())
    for method, scores in metrics["methods"].items():
        rows = predictions[predictions["method"] == method]
        assert scores["pooled"]["accuracy"] == pytest.approx((rows["truth"] == rows["predicted"]).mean())
    history = pd.read_csv(run / "history.csv")
    assert set(zip(history["method"], history["stage"], strict=True)) == {
        ("scratch", "scratch"), ("fine-tune", "fine_tune"), ("fn2en", "stage1"), ("fn2en", "stage2"),
    }  # fmt: skip
    assert len(history) == len(ears.epochs) == 2 * 4 * 2
    assert [training.number for training in ears.trainings] == [1, 2, 3, 4, 5, 6]
    assert not list(run.rglob("views-*"))
    assert list(run.rglob("events.out.tfevents*"))
    assert "fn2en stage1 epoch 2/2" in (run / "log.txt").read_text()


def test_train_leaves_a_model_that_predicts(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", machine=CPU)
    recognizer = facenet2expnet.Recognizer.load(run)
    assert recognizer.classes == tiny.CLASSES
    found = recognizer.predict(faces)
    assert len(found) == 24
    predictions = pd.read_parquet(run / "predictions.parquet")
    tested = predictions[predictions["method"] == "fn2en"].set_index("image")
    again = found.table()
    again["image"] = [str(Path(image).relative_to(faces).as_posix()) for image in again["image"]]
    again = again.set_index("image").loc[tested.index]
    for name in tiny.CLASSES:
        assert np.allclose(again[f"p_{name}"], tested[f"p_{name}"], atol=1e-6)
    assert recognizer.facts["recipe"]["stage1"]["views"] == 2
    assert recognizer.facts["trained_on"]["pictures"] == 24 - len(tested)
    assert "Subjects are unknown" in (run / "log.txt").read_text()


def test_train_on_everything_has_no_accuracy(faces: Path, tmp_path: Path) -> None:
    run = train(
        faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", holdout=False, machine=CPU
    )
    assert not (run / "metrics.json").exists()
    assert (run / "report.html").exists()
    model = facenet2expnet.Recognizer.load(run)
    assert model.facts["trained_on"]["pictures"] == 24
    assert model.facts["metrics"]["accuracy"] is None


def test_two_seeds_differ_and_are_both_kept(faces: Path, tmp_path: Path) -> None:
    run = compare(
        faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", methods=["scratch"], folds=2, first_folds=1,
        seeds=[0, 1], machine=CPU,
    )  # fmt: skip
    predictions = pd.read_parquet(run / "predictions.parquet").set_index("image")
    first, second = (predictions[predictions["seed"] == seed]["p_anger"] for seed in (0, 1))
    assert list(first.index) == list(second.index)
    assert not np.allclose(first, second)
    assert "Only the first 1 of 2 folds were done." in (run / "log.txt").read_text()


def test_a_run_is_not_overwritten_nor_resumed_as_another(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = {"recipe": tiny.tiny_recipe(), "out": out, "methods": ["scratch"], "folds": 2, "machine": CPU}
    compare(faces, **arguments)
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        compare(faces, **arguments)
    compare(faces, **arguments, resume=True)
    other = arguments | {"recipe": tiny.tiny_recipe("scratch.epochs=3")}
    with pytest.raises(UserError, match=r"another recipe: scratch\.epochs=2"):
        compare(faces, **other, resume=True)
    with pytest.raises(UserError, match="begun with another folds"):
        compare(faces, **(arguments | {"folds": 3}), resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UserError, match="is there and not empty"):
            compare(faces, **(arguments | {"out": tmp_path / "full"}), resume=resume)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["svm"]}, "methods: got svm, expected some of scratch, fine-tune, fn2en"),
        ({"seeds": [1, 1]}, "seeds: got"),
        ({"machine": Machine("gpu")}, "device is 'gpu', expected one of auto, cpu, cuda, mps"),
        ({"folds": 9}, "fewer"),
        ({"protocol": "leave-one-out"}, "protocol 'leave-one-out' is not one of"),
        ({"recipe": "fast"}, "no recipe is called 'fast'"),
        ({"recipe": tiny.tiny_recipe("face_net.tap=fc6")}, "face_net.tap is 'fc6'"),
    ],
)
def test_bad_arguments_write_nothing(
    faces: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "machine": CPU}
    with pytest.raises(UserError, match=message):
        compare(faces, **(arguments | change))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_folds_of_a_file_have_names_of_their_own_and_stay_the_same(faces: Path, tmp_path: Path) -> None:
    images = list(read_manifest(faces).table["image"])
    halves = [{"train": images[::2], "test": images[1::2]}, {"train": images[1::2], "test": images[::2]}]
    split, out = tmp_path / "split.json", tmp_path / "run"

    def compare_on(*folds: dict[str, object], resume: bool = False) -> Path:
        split.write_text(json.dumps({"format": splits.FORMAT, "folds": folds}))
        return compare(
            faces, recipe=tiny.tiny_recipe(), out=out, methods=["scratch"], protocol=str(split), machine=CPU,
            resume=resume,
        )  # fmt: skip

    with pytest.raises(UserError, match="fold name 'None' stands 2 times"):
        compare_on(*halves)
    with pytest.raises(UserError, match=r"fold name '\.\./a' names no folder inside the run"):
        compare_on({"name": "../a", **halves[0]})
    assert not out.exists()
    compare_on({"name": "a", **halves[0]})
    compare_on({"name": "a", **halves[0]}, resume=True)
    with pytest.raises(UserError, match="fold a was begun with other pictures"):
        compare_on({"name": "a", **halves[1]}, resume=True)


def test_bad_pictures_are_left_out_listed_and_counted(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    (faces / "anger" / "empty.png").touch()
    (faces / "anger" / "text.jpg").write_text("no picture")
    whole = (faces / "anger" / "00.png").read_bytes()
    (faces / "happiness" / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (50, 30), 90).save(faces / "surprise" / "grey.png")
    Image.new("CMYK", (40, 40), (9, 9, 9, 9)).save(faces / "surprise" / "cmyk.jpg")
    ears = Ears()
    run = train(
        faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", machine=CPU, reporter=ears
    )
    skipped = pd.read_csv(run / "skipped.csv")
    assert sorted(skipped["image"]) == ["anger/empty.png", "anger/text.jpg", "happiness/half.png"]
    assert json.loads((run / "run.json").read_text())["manifest"]["pictures"] == 26
    assert any("3 pictures were left out" in note for note in ears.notes)


def test_evaluate_tests_a_model_and_knows_its_training_data(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", machine=CPU)
    found = facenet2expnet.evaluate(run, faces)
    assert len(found.predictions) == 24
    assert any("accuracy is too high for new people" in note for note in found.notes)
    happy = tiny.write_faces(tmp_path / "happy", classes=("happiness",))
    assert len(facenet2expnet.evaluate(run, happy).predictions) == 8
    other = tiny.write_faces(tmp_path / "other", classes=("anger", "hapiness"))
    with pytest.raises(
        UserError, match=r"class 'hapiness' is not one of the model's.*did you mean 'happiness'"
    ):
        facenet2expnet.evaluate(run, other)
    (tmp_path / "some.csv").write_text(f"image,label\n{faces}/anger/00.png,angr\n")
    with pytest.raises(UserError, match=r"some.csv line 2: .*'angr' is not one of .*'anger'"):
        facenet2expnet.evaluate(run, tmp_path / "some.csv")


def test_unlabelled_pictures_take_part_in_stage_1_but_not_those_of_tested_subjects(
    faces: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table.loc[::4, "label"] = ""  # all pictures of subject S0
    table.loc[1, "label"] = ""
    table.to_csv(tmp_path / "faces.csv", index=False)
    recipe = tiny.tiny_recipe("stage1.unlabelled=true", "stage2.soft_labels=0.5", "stage1.blend=0.5")
    recipe_without = tiny.tiny_recipe("stage2.soft_labels=0.5", "stage1.blend=0.5")
    arguments = {"folds": 3, "first_folds": 1, "machine": CPU, "methods": ["fn2en"]}
    used = compare(tmp_path / "faces.csv", recipe=recipe, out=tmp_path / "with", **arguments)
    left = compare(tmp_path / "faces.csv", recipe=recipe_without, out=tmp_path / "without", **arguments)
    assert json.loads((used / "run.json").read_text())["manifest"]["unlabelled"] == 7
    assert "6 pictures without a label take part in stage 1." in (used / "log.txt").read_text()
    assert len(pd.read_csv(left / "skipped.csv")) == 7
    first, second = (pd.read_parquet(run / "predictions.parquet") for run in (used, left))
    assert list(first["image"]) == list(second["image"])
    assert set(first["subject"]) == {"S1"}
    fine_tuned = first["method"] == "fine-tune"
    assert np.allclose(first[fine_tuned]["p_anger"], second[fine_tuned]["p_anger"])
    assert not np.allclose(first[~fine_tuned]["p_anger"], second[~fine_tuned]["p_anger"])


@pytest.mark.parametrize("column", ["subject", "sequence", "fold"])
def test_no_unlabelled_picture_of_what_is_tested_is_used(faces: Path, tmp_path: Path, column: str) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path)).rename(columns={"subject": column})
    table.loc[:3, "label"] = ""  # one picture of each subject
    table.to_csv(tmp_path / "faces.csv", index=False)
    dataset = load_dataset(tmp_path / "faces.csv", tiny.tiny_recipe().crop, unlabelled=True)
    held_out = (dataset.manifest.table[column] == "S2").to_numpy()
    cut = Cut("fold", np.flatnonzero(~held_out), np.flatnonzero(held_out))
    job = Job(cut, Training("fn2en", "fold", 0, 1, 1, 15, 4), tmp_path, tmp_path)
    assert list(dataset.unlabelled.table[column]) == ["S0", "S1", "S2", "S3"]
    assert _unlabelled(job, dataset, np.zeros(0, np.int64)).tolist() == [0, 1, 3]


def test_no_unlabelled_frame_of_a_tested_sequence_is_used_where_subjects_are_partly_known(
    faces: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table["sequence"] = [f"v{row // 2}" for row in range(len(table))]
    table.loc[12:, "subject"] = ""  # the second half is known by its sequences alone
    table.loc[[1, 3, 13, 15], "label"] = ""
    table.loc[1, "subject"] = ""  # a frame of v0, whose other frame is of a known subject
    table.to_csv(tmp_path / "faces.csv", index=False)
    dataset = load_dataset(tmp_path / "faces.csv", tiny.tiny_recipe().crop, unlabelled=True)
    assert list(dataset.unlabelled.table["sequence"]) == ["v0", "v1", "v6", "v7"]
    sequences = dataset.manifest.table["sequence"]
    held_out = sequences.isin(["v0", "v6"]).to_numpy()
    cut = Cut("fold", np.flatnonzero(~held_out), np.flatnonzero(held_out))
    job = Job(cut, Training("fn2en", "fold", 0, 1, 1, 15, 4), tmp_path, tmp_path)
    assert _unlabelled(job, dataset, np.zeros(0, np.int64)).tolist() == [1, 3]


def watching_job(method: str, folder: Path) -> Job:
    rows = np.arange(24)
    cut = Cut("fold", rows[rows % 4 != 2], rows[rows % 4 == 2])
    return Job(cut, Training(method, "fold", 0, 1, 1, 18, 4), folder, folder)


def test_the_inner_part_is_of_the_training_part_and_of_other_subjects(faces: Path, tmp_path: Path) -> None:
    dataset = load_dataset(with_subjects(faces, tmp_path), tiny.tiny_recipe().crop)
    subjects = dataset.manifest.table["subject"].to_numpy()
    for method, stage in (("scratch", "scratch"), ("fine-tune", "stage2"), ("fn2en", "fine_tune")):
        job = watching_job(method, tmp_path)
        recipe = tiny.tiny_recipe(f"{stage}.patience=1", f"{stage}.inner_share=0.3")
        rows, inner = _inner_rows(job, dataset, recipe)
        assert len(inner) == 6
        assert sorted([*rows, *inner]) == list(job.cut.train)
        assert not set(subjects[rows]) & set(subjects[inner])
    rows, inner = _inner_rows(
        watching_job("scratch", tmp_path), dataset, tiny.tiny_recipe("stage2.patience=1")
    )
    assert (len(rows), len(inner)) == (18, 0)


def test_no_unlabelled_picture_of_a_watched_subject_is_used(faces: Path, tmp_path: Path) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table.loc[:3, "label"] = ""  # one picture of each subject
    table.to_csv(tmp_path / "faces.csv", index=False)
    dataset = load_dataset(tmp_path / "faces.csv", tiny.tiny_recipe().crop, unlabelled=True)
    subjects = dataset.manifest.table["subject"].to_numpy()
    cut = Cut("fold", np.flatnonzero(subjects != "S2"), np.flatnonzero(subjects == "S2"))
    job = Job(cut, Training("fn2en", "fold", 0, 1, 1, 15, 4), tmp_path, tmp_path)
    found = _unlabelled(job, dataset, np.flatnonzero(subjects == "S3"))
    assert found.tolist() == [0, 1]


def test_early_stopping_sees_no_picture_that_it_learns_from(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for name in ("fine_tune", "fn2en"):
        stage = getattr(job, name)
        monkeypatch.setattr(
            job,
            name,
            lambda part, *rest, do=stage, **named: (parts.append(part), do(part, *rest, **named))[1],
        )
    recipe = tiny.tiny_recipe("stage2.patience=1", "stage2.epochs=6", "stage1.patience=5")
    ears = Ears()
    run = compare(
        with_subjects(faces, tmp_path), recipe=recipe, out=tmp_path / "run", folds=2, first_folds=1,
        methods=["fn2en"], machine=CPU, reporter=ears,
    )  # fmt: skip
    assert len(parts) == 3  # the baseline, the teacher read again, the expression net
    for part in parts:
        learned, watched = ({face.tobytes() for face in p.pixels} for p in (part, part.inner))
        assert len(learned) == len(watched) == 6
        assert not learned & watched
    history = pd.read_csv(run / "history.csv")
    with_inner = history[history["inner"].notna()]
    assert set(with_inner["stage"]) == {"stage1", "stage2"}
    assert set(history[history["inner"].isna()]["stage"]) == {"fine_tune"}
    stage_2 = with_inner[with_inner["stage"] == "stage2"]
    best = int(stage_2["inner"].argmin()) + 1
    assert any(
        note.startswith(f"stage2 ended after {len(stage_2)} of 6 epochs, with the weights of epoch {best} ")
        for note in ears.notes
    )
    assert ", inner loss " in (run / "log.txt").read_text()
    assert "loss on the inner part" in (run / "report.html").read_text()


def test_the_temperature_changes_probabilities_and_no_answer(faces: Path, tmp_path: Path) -> None:
    data = with_subjects(faces, tmp_path)
    recipe = tiny.tiny_recipe("calibration_share=0.4", "scratch.epochs=6")
    ears = Ears()
    run = compare(data, recipe=recipe, out=tmp_path / "run", folds=2, machine=CPU, reporter=ears)
    assert "6 pictures of a training part are kept out of the training, to fit the temperature." in ears.notes
    predictions = pd.read_parquet(run / "predictions.parquet")
    dataset = load_dataset(data, recipe.crop)
    folds = splits.read_splits(run / "folds.json", dataset.manifest)
    for fold in folds:
        cut = with_calibration(Cut(fold.name, fold.train, fold.test), dataset.manifest, 0.4)
        assert sorted([*cut.train, *cut.calibration]) == list(fold.train)
        subjects = dataset.manifest.table["subject"]
        assert not set(subjects[cut.calibration]) & set(subjects[cut.train])
        model = load_model(run / fold.name / "scratch" / "model")
        facts = model.facts["calibration"]
        assert facts["pictures"] == len(cut.calibration) == 6
        assert model.facts["trained_on"]["pictures"] == len(cut.train) == 6
        rows = predictions[(predictions["fold"] == fold.name) & (predictions["method"] == "scratch")]
        assert set(rows["temperature"]) == {facts["temperature"]}
        crop_px = dataset.contract.crop_px
        scaled = class_scores(model.module, dataset.pixels[fold.test], crop_px)
        plain = model.module
        plain.load_state_dict(load_file(run / fold.name / "scratch" / "scratch.safetensors"))
        scores = class_scores(plain, dataset.pixels[fold.test], crop_px)
        assert np.allclose(scaled * facts["temperature"], scores, atol=1e-4)
        assert list(rows["predicted"]) == [tiny.CLASSES[number] for number in scores.argmax(1)]
        inner = class_scores(plain, dataset.pixels[cut.calibration], crop_px)
        assert facts["temperature"] == fit_temperature(inner, dataset.manifest.labels[cut.calibration])
    found = json.loads((run / "metrics.json").read_text())["methods"]
    for method, scores in found.items():
        rows = predictions[predictions["method"] == method].copy()
        columns = [f"p_{name}" for name in tiny.CLASSES]
        powers = rows[columns].to_numpy(np.float64) ** rows["temperature"].to_numpy()[:, None]
        rows[columns] = powers / powers.sum(axis=1, keepdims=True)
        before = summarise(rows, tiny.CLASSES)["methods"][method]["pooled"]
        for name, value in scores["scaling"]["before"].items():
            assert value == pytest.approx(before[name], rel=1e-4)
        for name, value in scores["scaling"]["after"].items():
            assert value == scores["pooled"][name]
        assert len(scores["scaling"]["temperatures"]) == 2
    page = (run / "report.html").read_text()
    assert "Temperature scaling, over all test pictures together" in page
    again = facenet2expnet.evaluate(run / folds[0].name / "fn2en", data).predictions.set_index("image")
    tested = predictions[(predictions["fold"] == folds[0].name) & (predictions["method"] == "fn2en")]
    for name in tiny.CLASSES:
        assert np.allclose(again.loc[tested["image"], f"p_{name}"], tested[f"p_{name}"], atol=1e-6)


def test_no_stage_sees_the_pictures_that_the_temperature_is_fitted_on(faces: Path, tmp_path: Path) -> None:
    data = with_subjects(faces, tmp_path)
    recipe = tiny.tiny_recipe("calibration_share=0.4")
    dataset = load_dataset(data, recipe.crop)
    arguments = {"recipe": recipe, "folds": 2, "first_folds": 1, "methods": ["fn2en"], "machine": CPU}
    first = compare(data, out=tmp_path / "first", **arguments)
    fold = splits.read_splits(first / "folds.json", dataset.manifest)[0]
    inner = with_calibration(Cut(fold.name, fold.train, fold.test), dataset.manifest, 0.4).calibration
    table = pd.read_csv(data)
    for row in inner:
        picture = tmp_path / f"{row}.png"
        Image.fromarray(np.full((40, 40, 3), 9 * row % 256, np.uint8)).save(picture)
        table.loc[row, "image"] = str(picture)
    table.to_csv(tmp_path / "other.csv", index=False)
    second = compare(tmp_path / "other.csv", out=tmp_path / "second", **arguments)
    for name in ("fine-tune/fine_tune", "fn2en/stage1", "fn2en/stage2"):
        one, two = (load_file(run / fold.name / f"{name}.safetensors") for run in (first, second))
        assert all(value.equal(two[key]) for key, value in one.items())
    one, two = (load_model(run / fold.name / "fn2en").facts["calibration"] for run in (first, second))
    assert one["temperature"] != two["temperature"]


def test_without_calibration_nothing_of_it_is_there(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", machine=CPU)
    assert "temperature" not in pd.read_parquet(run / "predictions.parquet")
    assert "scaling" not in json.loads((run / "metrics.json").read_text())["methods"]["scratch"]
    assert "calibration" not in load_model(run).facts
    assert "Temperature scaling" not in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("setting", "method"), [("stage2.adversarial=0.1", "fn2en"), ("scratch.adversarial=0.1", "scratch")]
)
def test_an_adversary_needs_subjects(faces: Path, tmp_path: Path, setting: str, method: str) -> None:
    recipe = tiny.tiny_recipe(setting)
    name = setting.partition("=")[0]
    arguments = {"recipe": recipe, "folds": 2, "first_folds": 1, "machine": CPU}
    with pytest.raises(
        UserError, match=rf"{name} is above 0, expected two subjects or more in every training part, got 0"
    ):
        compare(faces, out=tmp_path / "run", methods=[method], **arguments)
    assert not (tmp_path / "run").exists()
    run = compare(with_subjects(faces, tmp_path), out=tmp_path / "run", methods=[method], **arguments)
    weights = load_file(run / "fold-1" / method / "model" / "model.safetensors")
    assert not any("adversary" in key for key in weights)
    compare(faces, out=tmp_path / "other", methods=["fine-tune"], **arguments)


@pytest.mark.parametrize(
    ("setting", "methods", "expected"),
    [
        ("stage1.patience=1", ["scratch", "fine-tune"], "stage1.patience is above 0, expected two subjects"),
        ("scratch.patience=1", ["scratch"], "scratch.patience is above 0, expected two subjects"),
        ("scratch.patience=1", ["fn2en"], ""),
        ("face_net.tap=auto", ["scratch"], "the training part has 3 pictures, expected more than 5"),
        ("face_net.tap=auto", ["fine-tune"], ""),
    ],
)
def test_a_training_part_too_small_for_the_recipe_is_refused_before_any_training(
    faces: Path, tmp_path: Path, setting: str, methods: list[str], expected: str
) -> None:
    manifest = read_manifest(with_subjects(faces, tmp_path))
    assert manifest.subjects is not None
    rows = np.flatnonzero(manifest.subjects == manifest.subjects[0])[:3]
    cut = Cut("fold-1", rows, np.array([], np.int64))
    recipe = tiny.tiny_recipe(setting)
    if not expected:
        check_parts(recipe, methods, [cut], manifest)
        return
    with pytest.raises(UserError, match=expected):
        check_parts(recipe, methods, [cut], manifest)


def test_what_was_taken_for_granted_of_the_face_net_is_in_the_log(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(stages.check(tiny.tiny_recipe()), notes=("The weights are taken for RGB.",))
    monkeypatch.setattr(stages, "check", lambda *_, **__: info)
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", machine=CPU)
    assert "The weights are taken for RGB." in (run / "log.txt").read_text()


def test_an_inner_part_of_one_subject_is_refused_first(faces: Path, tmp_path: Path) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table["subject"] = table["subject"].replace({"S1": "S0", "S2": "S3"})
    table.to_csv(tmp_path / "faces.csv", index=False)
    recipe = tiny.tiny_recipe("calibration_share=0.2")
    with pytest.raises(UserError, match="an inner split needs at least two"):
        compare(tmp_path / "faces.csv", recipe=recipe, out=tmp_path / "run", folds=2, machine=CPU)
    assert not (tmp_path / "run").exists()


def test_no_unlabelled_picture_of_an_inner_subject_is_used(faces: Path, tmp_path: Path) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table.loc[:3, "label"] = ""  # one picture of each subject
    table["fold"] = "1"
    table.to_csv(tmp_path / "faces.csv", index=False)
    dataset = load_dataset(tmp_path / "faces.csv", tiny.tiny_recipe().crop, unlabelled=True)
    inner = (dataset.manifest.table["subject"] == "S2").to_numpy()
    cut = Cut("fold", np.flatnonzero(~inner), np.zeros(0, np.int64), np.flatnonzero(inner))
    job = Job(cut, Training("fn2en", "fold", 0, 1, 1, 15, 4), tmp_path, tmp_path)
    assert _unlabelled(job, dataset, np.zeros(0, np.int64)).tolist() == [0, 1, 3]
