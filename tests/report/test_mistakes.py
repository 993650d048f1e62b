"""The surest mistakes and their thumbnails."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from facenet2expnet.report.mistakes import surest_mistakes, thumbnail


def table() -> pd.DataFrame:
    rows = [
        ("right.png", "m", 0, "a", "a", 0.99),
        ("sure.png", "m", 0, "a", "b", 0.1),
        ("sure.png", "m", 1, "a", "b", 0.05),
        ("unsure.png", "m", 0, "b", "a", 0.6),
        ("other.png", "n", 0, "a", "b", 0.0),
        ("unlabelled.png", "m", 0, None, "b", 0.0),
    ]
    out = pd.DataFrame(rows, columns=["image", "method", "seed", "truth", "predicted", "p_a"])
    return out.assign(p_b=1 - out["p_a"], fold="1")


def test_surest_first_and_each_picture_once():
    found = surest_mistakes(table(), "m", 5)
    assert found["image"].tolist() == ["sure.png", "unsure.png"]
    assert found["probability"].tolist() == [0.95, 0.6]
    assert np.allclose(found["truth_probability"], [0.05, 0.4])
    assert found["subject"].tolist() == ["", ""]
    assert len(surest_mistakes(table(), "m", 1)) == 1


def test_no_mistakes_is_an_empty_table():
    assert surest_mistakes(table().iloc[:1], "m", 5).empty


def test_thumbnail_is_a_small_jpeg(tmp_path: Path):
    Image.new("L", (640, 320), 200).save(tmp_path / "wide.png")
    uri, reason = thumbnail(tmp_path / "wide.png", 144)
    assert reason == ""
    assert uri is not None
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (144, 72)


def test_thumbnail_says_why_there_is_none(tmp_path: Path):
    assert thumbnail(tmp_path / "gone.png") == (None, "was not found")
