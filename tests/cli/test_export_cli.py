"""fn2en export, and what is said where a package is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import tiny
from facenet2expnet.cli import main
from facenet2expnet.deploy import agreement, onnx
from facenet2expnet.predict.model_folder import save_model


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a model and 20 labelled faces of 20 people."""
    save_model(tiny.sure_model(), tmp_path / "run" / "model")
    for number, face in enumerate(tiny.faces(20)):
        Image.fromarray(face).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(20)], "label": "surprise"})
    table.to_csv(tmp_path / "faces.csv", index=False)
    monkeypatch.setattr(onnx, "to_graph", lambda model: tiny_onnx.read_bytes())
    monkeypatch.setattr(agreement, "MAX_CHANGED", 20.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fn2en(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["fn2en", *words])
    try:
        main.run()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.usefixtures("folder")
def test_what_was_measured_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fn2en("export", "run", "a.onnx", "--data", "faces.csv", monkeypatch=monkeypatch) == 0
    compared, accuracy, written = capsys.readouterr().out.splitlines()
    assert compared.startswith("compared with PyTorch on 20 faces of faces: largest difference of a probability ")
    assert compared.endswith("0 answers changed (0.00 %)")
    assert accuracy.startswith("accuracy on 20 labelled faces: ")
    assert written == "a.onnx: float32, 0.2 MB"
    words = ("export", "run/model", "b.onnx", "--int8", "--data", "faces.csv", "--max-drop", "50")
    assert fn2en(*words, monkeypatch=monkeypatch) == 0
    calibrated, compared, _, written = capsys.readouterr().out.splitlines()
    assert calibrated == "calibrated on 10 other faces of faces"
    assert compared.startswith("compared with PyTorch on 10 faces of faces")
    assert written == "b.onnx: int8, 0.1 MB"


@pytest.mark.usefixtures("folder")
def test_two_precisions_exclude_each_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fn2en("export", "run", "a.onnx", "--int8", "--fp16", monkeypatch=monkeypatch) == 2
    assert "--int8 and --fp16 exclude each other; write two files" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "facenet2expnet.experiment.evaluate", None)
    with pytest.raises(ModuleNotFoundError):  # one of our own is a fault of ours
        fn2en("evaluate", "run", "faces.csv", monkeypatch=monkeypatch)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setattr(main, "make_app", lambda: lambda: __import__("kornia"))
    assert fn2en("train", monkeypatch=monkeypatch) == 2
    assert "fn2en: this needs the Python package 'kornia', which is not installed" in capsys.readouterr().err
