"""The surest mistakes and their thumbnails."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pandas as pd
import pytest
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
    return out.assign(p_b=1 - out["p_a"])


def test_mistakes_are_sorted_by_probability_and_each_picture_is_there_once() -> None:
    found = surest_mistakes(table(), "m", 5)
    assert found["image"].tolist() == ["sure.png", "unsure.png"]
    assert found["probability"].tolist() == [0.95, 0.6]
    assert found["truth_probability"].tolist() == pytest.approx([0.05, 0.4])
    assert len(surest_mistakes(table(), "m", 1)) == 1
    assert surest_mistakes(table().iloc[:1], "m", 5).empty


def test_a_thumbnail_is_a_small_jpeg_or_the_reason_why_there_is_none(tmp_path: Path) -> None:
    Image.new("L", (640, 320), 200).save(tmp_path / "wide.png")
    uri, reason = thumbnail(tmp_path / "wide.png", 144)
    assert uri is not None
    head, data = uri.split(",")
    assert (head, reason) == ("data:image/jpeg;base64", "")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (144, 72)
    assert thumbnail(tmp_path / "gone.png") == (None, "was not found")
