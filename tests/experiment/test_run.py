"""The folder of a run: resumed only as what was begun, nothing written on bad input, whole after a kill."""

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
from runs import CPU
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import tiny
from facenet2expnet import recipes
from facenet2expnet.data import splits
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import compare as experiment
from facenet2expnet.experiment import inputs
from facenet2expnet.experiment import job as jobs
from facenet2expnet.experiment import run as run_module
from facenet2expnet.experiment.compare import compare, train
from facenet2expnet.files import folder_lock
from facenet2expnet.predict.model_folder import save_model
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord

pytestmark = pytest.mark.usefixtures("tiny_face_net")


def two_folds(tmp_path: Path) -> dict[str, Any]:
    return {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "methods": ["scratch"], "folds": 2, **CPU}


def one_training(tmp_path: Path) -> dict[str, Any]:
    return {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "method": "scratch", **CPU}


def test_a_run_is_not_overwritten_nor_resumed_as_another(faces: Path, tmp_path: Path) -> None:
    arguments = two_folds(tmp_path)
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


def test_a_run_keeps_the_precision_that_auto_came_to(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = two_folds(tmp_path) | {"recipe": tiny.tiny_recipe("precision=auto")}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    compare(faces, **arguments)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    model = json.loads((tmp_path / "run" / "fold-1" / "scratch" / "model" / "model.json").read_text())
    assert record["precision"] == model["recipe"]["precision"] == "bf16-mixed"
    assert recipes.read(tmp_path / "run" / "recipe.toml").precision == "bf16-mixed"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    compare(faces, **arguments, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["precision"] == "bf16-mixed"
    compare(faces, **(arguments | {"out": tmp_path / "other"}))
    assert json.loads((tmp_path / "other" / "run.json").read_text())["precision"] == "32-true"


def test_a_run_of_before_settings_were_taken_out_is_resumed(faces: Path, tmp_path: Path) -> None:
    arguments = two_folds(tmp_path)
    compare(faces, **arguments)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    record["identity"]["recipe"]["scratch"] |= {"ema_decay": 0.0}
    path.write_text(json.dumps(record))
    compare(faces, **arguments, resume=True)
    record["identity"]["recipe"]["scratch"] |= {"ema_decay": 0.5}
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"another recipe: scratch\.ema_decay=0\.5"):
        compare(faces, **arguments, resume=True)


def test_other_pictures_under_the_same_names_are_not_resumed(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    arguments = two_folds(tmp_path)
    compare(faces, **arguments)
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(faces / "anger" / "00.png")
    with pytest.raises(UserError, match="started with other pixels"):
        compare(faces, **arguments, resume=True)


def test_another_crop_contract_is_not_resumed(faces: Path, tmp_path: Path) -> None:
    data, arguments = read_manifest(faces), two_folds(tmp_path)
    compare(data, **arguments)
    prepared = replace(data, contract=replace(arguments["recipe"].crop, margin=0.5))
    with pytest.raises(UserError, match=r"started with other contract"):
        compare(prepared, **arguments, resume=True)


def test_other_face_net_weights_under_the_same_name_are_not_resumed(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = one_training(tmp_path)
    train(faces, **arguments)
    init = tiny.TinyFaceNet.__init__

    def other(self: tiny.TinyFaceNet) -> None:
        init(self)
        self.early.weight.data += 1

    monkeypatch.setattr(tiny.TinyFaceNet, "__init__", other)
    with pytest.raises(UserError, match="started with other weights"):
        train(faces, **arguments, resume=True)


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


def test_no_fold_at_all_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="first_folds is 0, expected 1 or more"):
        compare(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, first_folds=0, **CPU)


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


def test_one_process_at_a_time_works_in_a_run_folder(faces: Path, tmp_path: Path) -> None:
    arguments = two_folds(tmp_path)
    with folder_lock(tmp_path / "run", "busy"), pytest.raises(UserError, match="another process works here"):
        compare(faces, **arguments)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    compare(faces, **arguments)  # a left lock file is not in the way


def test_a_folder_that_can_not_be_made_is_named(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("a file")
    with pytest.raises(UserError, match=r"small.csv/x: can't be made: Not a directory"):
        train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "small.csv" / "x", method="scratch", **CPU)


def test_a_folder_that_vanishes_before_the_last_results_is_told(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the disk of it may; the model would make the folder again, without the rest."""

    def vanish(model: Any, folder: Path) -> None:
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        save_model(model, folder)

    monkeypatch.setattr(experiment, "save_model", vanish)
    with pytest.raises(UserError, match=r"run: there is no such run any more; is its disk still there\?"):
        train(faces, **one_training(tmp_path))
    assert not (tmp_path / "run" / "run.json").exists()
    assert (tmp_path / "elsewhere" / "metrics.json").exists()


def test_an_interrupted_write_leaves_no_half_file(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions, history and tables of a job are whole or absent."""
    arguments = one_training(tmp_path)

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


def test_temporary_files_of_a_killed_run_are_deleted(faces: Path, tmp_path: Path) -> None:
    arguments = one_training(tmp_path)
    run = train(faces, **arguments)
    left = [run / ".run.0123abcd.json", run / "fold-1" / ".scratch.checkpoint.0123abcd.safetensors"]
    left[1].parent.mkdir(exist_ok=True)
    for path in left:
        path.write_bytes(b"half")
    train(faces, **arguments, resume=True)
    assert not any(path.exists() for path in left)


def test_what_was_assumed_of_the_face_net_is_in_the_log(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(stages.check(tiny.tiny_recipe()), notes=("The weights are taken for RGB.",))
    monkeypatch.setattr(experiment.stages, "check", lambda *_, **__: info)
    run = train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    assert "The weights are taken for RGB." in (run / "log.txt").read_text()


def test_the_log_file_is_closed_and_the_logger_is_as_before(faces: Path, tmp_path: Path) -> None:
    package = logging.getLogger("facenet2expnet")
    before = (package.level, list(package.handlers))
    train(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", method="scratch", **CPU)
    assert (package.level, list(package.handlers)) == before


def test_a_dataframe_and_the_path_of_a_recipe(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.save(tiny.tiny_recipe(), tmp_path / "mine.toml")
    table = read_manifest(faces).table.rename(columns={"image": "image_path", "label": "Emotion"})
    monkeypatch.chdir(faces)
    found = inputs.load_pictures(table, recipes.load(tmp_path / "mine.toml"))
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
    with pytest.raises(UserError, match=r"run\.json: is not a run that can be continued; choose another --out"):
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
