"""The command line: help with examples, results on screen and in files, one-line errors with exit 2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import tiny
from facenet2expnet import recipes
from facenet2expnet.cli import main
from facenet2expnet.data import sources

pytestmark = pytest.mark.usefixtures("tiny_face_net")


def fn2en(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["fn2en", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.run()
    code = ended.value.code
    return 0 if code is None else int(code)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    recipes.save(tiny.tiny_recipe(), path)
    return path


COMMANDS = ("quickstart", "train", "compare", "ablate", "status", "evaluate", "predict", "report", "recipe", "nets")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fn2en(command, "--help", monkeypatch=monkeypatch) == 0
    assert f"Example: fn2en {command}" in capsys.readouterr().out


def test_train_predict_evaluate_report(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    run = tmp_path / "run"
    common = ["--recipe", recipe_file, "--out", run, "--device", "cpu", "--threads", 1]
    assert fn2en("train", faces, *common, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    assert f"model:  {run / 'model'}" in printed.out
    assert "FN2EN" in printed.out
    assert "fn2en, fold fold-1, seed 0 (2 of 2): done, accuracy" in printed.err
    for kind in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"predictions.{kind}"
        assert (
            fn2en("predict", run, faces, "--faces", "whole-image", "--out", out, "--quiet", monkeypatch=monkeypatch)
            == 0
        )
        table = pd.read_json(out, lines=True) if kind == "jsonl" else getattr(pd, f"read_{kind}")(out)
        assert len(table) == 24
        assert set(table["label"]) <= set(tiny.CLASSES)
    assert fn2en("evaluate", run, faces, "--out", tmp_path / "e.csv", monkeypatch=monkeypatch) == 0
    assert "accuracy" in capsys.readouterr().out
    assert {"truth", "predicted", "p_anger"} <= set(pd.read_csv(tmp_path / "e.csv").columns)
    (run / "report.html").unlink()
    assert fn2en("report", run, monkeypatch=monkeypatch) == 0
    assert (run / "report.html").stat().st_size > 10_000


def test_ablate_prints_its_table_and_is_resumed_with_a_learning_curve(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faces, out = tiny.write_faces(tmp_path / "faces"), tmp_path / "ablation"
    common = [
        "ablate",
        faces,
        "--recipe",
        recipe_file,
        "--out",
        out,
        "--folds",
        2,
        "--first-folds",
        1,
        "--threads",
        1,
    ]
    once = ["--vary", "stage1.epochs=3", "--vary", "stage2.lr=0.002", "--vary", "stage2.lr=0.004", "--quiet"]
    assert fn2en(*common, *once, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "stage1.epochs 3" in printed
    assert "stage2.lr 0.004" in printed
    assert f"report: {out / 'report.html'}" in printed
    methods = ["--method", "scratch", "--method", "fn2en"]
    again = ["--vary", "pictures=6", "--vary", "pictures=12", *methods, "--resume", "--quiet"]
    assert fn2en(*common, *again, monkeypatch=monkeypatch) == 0
    assert (out / "axis-pictures.svg").is_file()
    assert fn2en(*common, "--vary", "pictures=250", "--resume", monkeypatch=monkeypatch) == 2
    assert "250 training pictures were asked for, expected 1 to 12" in capsys.readouterr().err
    assert fn2en(*common, "--vary", "stage2.lr", "--resume", monkeypatch=monkeypatch) == 2
    assert "expected e.g. stage2.soft_labels=0" in capsys.readouterr().err


def one_class(folder: Path) -> Path:
    return tiny.write_faces(folder / "one", classes=("anger",))


def few(folder: Path) -> Path:
    return tiny.write_faces(folder / "few", each=3)


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def twice(folder: Path) -> Path:
    faces = tiny.write_faces(folder / "faces")
    (folder / "twice.csv").write_text(
        "image,label\nfaces/anger/00.png,anger\nfaces/surprise/00.png,surprise\nfaces/anger/00.png,anger\n"
    )
    assert faces.is_dir()
    return folder / "twice.csv"


def all_broken(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / "broken" / name).mkdir(parents=True)
        (folder / "broken" / name / "1.png").write_bytes(b"nothing")
    return folder / "broken"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "nowhere was not found"),
        (empty, "empty holds no pictures"),
        (one_class, "classes with pictures: anger; expected 2 or more"),
        (few, "fewer pictures than the 4 folds: anger 3"),
        (twice, "twice.csv line 4: "),
        (all_broken, "none of the 2 pictures could be used"),
    ],
)
def test_bad_data_is_one_line_exit_2_and_nothing_written(
    make: Callable[[Path], Path],
    message: str,
    recipe_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = make(tmp_path), tmp_path / "run"
    code = fn2en("compare", data, "--recipe", recipe_file, "--out", out, "--folds", 4, monkeypatch=monkeypatch)
    printed = capsys.readouterr().err.strip()
    assert code == 2
    assert printed.startswith("fn2en: ")
    assert "\n" not in printed
    assert message in printed
    assert not out.exists()


def test_other_bad_input(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    for arguments, message in (
        (["compare", faces, "--set", "stage1.epoch=1"], "names no setting of the recipe"),
        (["train", faces, "--resume"], "--resume needs --out"),
        (["predict", tmp_path / "none", faces], "there is no such model folder"),
        (["predict", faces, "--out", "table.xls"], ".csv, .jsonl or .parquet"),
        (["report", tmp_path], "run.json"),
    ):
        assert fn2en(*arguments, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err


def test_an_interrupt_says_how_to_continue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "names", interrupt)
    assert fn2en("data", "list", monkeypatch=monkeypatch) == 130
    assert "interrupted; continue a run with --resume" in capsys.readouterr().err


def test_pictures_left_out_are_listed_beside_the_table(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, run = tiny.write_faces(tmp_path / "faces"), tmp_path / "run"
    (faces / "anger" / "broken.png").write_bytes(b"nothing")
    command = ["train", faces, "--recipe", recipe_file, "--out", run, "--method", "scratch", "--quiet"]
    assert fn2en(*command, monkeypatch=monkeypatch) == 0
    for name in ("predict", "evaluate"):
        out = tmp_path / f"{name}.csv"
        assert fn2en(name, run, faces, "--out", out, "--quiet", monkeypatch=monkeypatch) == 0
        (left,) = pd.read_csv(tmp_path / f"{name}.skipped.csv")["image"]
        assert left.endswith("anger/broken.png")
    assert fn2en("predict", run, faces, "--device", "abacus", monkeypatch=monkeypatch) == 2


def test_a_full_disk_is_said_and_the_run_goes_on_later(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from facenet2expnet.nets import storage

    faces, run = tiny.write_faces(tmp_path / "faces"), tmp_path / "run"
    command = ["train", faces, "--recipe", recipe_file, "--out", run, "--method", "scratch", "--threads", 1]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "save_file", full)
        assert fn2en(*command, monkeypatch=patched) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(run.rglob(".*.safetensors"))
    assert fn2en(*command, "--resume", monkeypatch=monkeypatch) == 0
    assert (run / "model" / "model.safetensors").is_file()


def test_the_package_imports_cheaply() -> None:
    code = "import sys, facenet2expnet; print([m for m in ('torch', 'pandas', 'cv2', 'kornia') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['fn2en', '--help']\nfrom facenet2expnet.cli import main\n"
        "try: main.run()\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_sample_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fn2en("sample", "export", tmp_path / "ck", monkeypatch=monkeypatch) == 0
    pictures = list((tmp_path / "ck" / "cohn-kanade-images").rglob("*.png"))
    assert len(pictures) == 1308
    with Image.open(pictures[0]) as picture:
        assert min(picture.size) >= 128
    assert len(list((tmp_path / "ck" / "Emotion").rglob("*_emotion.txt"))) == 327


def test_model_card_of_a_run_says_where_it_comes_from(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, run = tiny.write_faces(tmp_path / "faces"), tmp_path / "run"
    command = ["train", faces, "--recipe", recipe_file, "--out", run, "--method", "scratch", "--quiet"]
    assert fn2en(*command, monkeypatch=monkeypatch) == 0
    card = json.loads((run / "model" / "model.json").read_text())
    assert card["command"].startswith("fn2en train ")
    assert card["classes"] == list(tiny.CLASSES)
    assert card["recipe"]["scratch"]["epochs"] == 2
    assert card["trained_on"]["manifest"] == "faces"
    assert 0 <= card["metrics"]["accuracy"] <= 1
