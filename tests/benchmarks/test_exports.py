"""The table of exported forms, in miniature."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import exports
import tiny
from facenet2expnet.deploy import agreement, onnx
from facenet2expnet.predict.model_folder import save_model
from facenet2expnet.predict.scores import class_probabilities

NUMBERS = r"\| [\d.]+ \| \d\.\de[-+]\d+ \| \d+ \| \d\.\d+ \| \d+\.\d+ \| \d+\.\d+ \|"


def test_every_form_has_a_row(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.sure_model()
    save_model(model, tmp_path / "model")
    pixels = tiny.faces(40)
    answers = class_probabilities(model.module, pixels, 32).argmax(axis=1)
    for number, face in enumerate(pixels):
        Image.fromarray(face).save(tmp_path / f"{number}.png")
    labels = [model.classes[answer] if number else "" for number, answer in enumerate(answers)]
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(40)], "label": labels})
    table.to_csv(tmp_path / "faces.csv", index=False)
    monkeypatch.setattr(onnx, "to_graph", lambda model: tiny_onnx.read_bytes())
    monkeypatch.setattr(agreement, "MAX_CHANGED", 5.0)
    monkeypatch.setattr(onnx.quantise, "to_float16", lambda graph: worse(graph))
    data = str(tmp_path / "faces.csv")
    exports.main([str(tmp_path / "model"), "--data", data, "--calibration", data, "--faces", "30", "--repeats", "2"])
    first, _, _, _, torch_row, onnx_row, half_row, int8_row = capsys.readouterr().out.splitlines()
    assert first == "30 labelled faces of faces, 1 thread"
    assert re.fullmatch(r"\| PyTorch " + NUMBERS, torch_row)
    assert torch_row.startswith("| PyTorch | 100.00 | 0.0e+00 | 0 | 0.17 |")
    assert re.fullmatch(r"\| ONNX " + NUMBERS, onnx_row)
    assert half_row.startswith("| ONNX, float16 | nothing was written: in float16")
    assert int8_row.startswith("| ONNX, int8 | ")
    assert half_row.count("|") == int8_row.count("|") == torch_row.count("|")


def worse(graph: bytes) -> bytes:
    """The graph with one class's score so high that it is always the answer."""
    package = pytest.importorskip("onnx")
    changed = package.load_from_string(graph)
    (bias,) = (t for t in changed.graph.initializer if t.name.endswith("head.scores.bias"))
    bias.CopyFrom(package.numpy_helper.from_array(np.array([0, 100, 0], np.float32), bias.name))
    return bytes(changed.SerializeToString())


def test_processor_time_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 9, 9, 18, 20, 20.4, 30, 30.8, 40, 42.0])  # two calls that are not counted, then 0.4, 0.8, 2 s
    monkeypatch.setattr(exports.time, "process_time", lambda: next(clock))
    shapes = []
    found = exports.ms_a_face(lambda given: shapes.append(given.shape) or given, np.zeros((3, 4, 4, 3)), 4, 3)
    assert found == pytest.approx(200)
    assert set(shapes) == {(4, 4, 4, 3)}
