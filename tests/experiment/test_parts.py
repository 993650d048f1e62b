"""What a training sees: copies, validation parts, train-only and unlabelled pictures, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import CPU, record, with_subjects
from safetensors.torch import load_file

import tiny
from facenet2expnet.data import splits
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import compare as experiment
from facenet2expnet.experiment import job as jobs
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.compare import compare, train
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.predict.scores import class_scores

pytestmark = pytest.mark.usefixtures("tiny_face_net")


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
    assert "6 pictures without a label take part." in (used / "log.txt").read_text()
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


def test_everything_is_trained_on_but_the_validation_part(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("calibrate=true", "val_fraction=0.25", "stage2.patience=1")
    run = train(with_subjects(faces, tmp_path), recipe=recipe, out=tmp_path / "run", holdout=False, **CPU)
    metadata = load_model(run).metadata
    assert (metadata["calibration"]["pictures"], metadata["trained_on"]["pictures"]) == (6, 18)


def test_nothing_is_claimed_of_a_test_part_that_is_not_there(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("calibrate=true")
    run = train(faces, recipe=recipe, out=tmp_path / "run", method="scratch", holdout=False, **CPU)
    checks = " ".join(record(run)["checks"])
    assert "Nothing was held out" in checks
    assert "test picture" not in checks
    assert "tested" not in checks


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
