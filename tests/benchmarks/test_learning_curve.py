"""The figure of a learning curve."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import ErrorbarContainer
from PIL import Image

import learning_curve
from facenet2expnet.errors import UserError


def write_tables(folder: Path) -> list[str]:
    """A table of three methods, and one of FN2EN alone."""
    rows = [
        {"number": number, "method": method, "pictures": pictures, "accuracy": base + number / 10, "std": 0.02}
        for method, base in {"fn2en": 0.5, "scratch": 0.4, "fine-tune": 0.5}.items()
        for number, pictures in enumerate((4000, 100, 1000, 4000))  # the last one is the unchanged recipe again
    ]
    pd.DataFrame(rows).to_csv(folder / "plain.csv", index=False)
    pd.DataFrame([row for row in rows if row["method"] == "fn2en"]).to_csv(folder / "start.csv", index=False)
    return [str(folder / "plain.csv"), f"start={folder / 'start.csv'}"]


def test_tables_become_lines_in_the_order_of_the_methods(tmp_path: Path) -> None:
    curve = learning_curve.read_curve(write_tables(tmp_path))
    lines = curve["line"].unique().tolist()
    assert lines == ["From scratch (BN)", "Fine-tuned face net", "FN2EN", "FN2EN, start"]
    own = curve[curve["line"] == "FN2EN, start"]
    assert own["pictures"].tolist() == [100, 1000, 4000]
    assert own["accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.5])


def test_lines_bars_and_labels_are_drawn(tmp_path: Path) -> None:
    figure = learning_curve.draw(learning_curve.read_curve(write_tables(tmp_path)))
    (axes,) = figure.axes
    bars = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    assert len(bars) == 4
    assert len({line.lines[0].get_color() for line in bars}) == 4
    assert list(bars[0].lines[0].get_ydata()) == pytest.approx([50, 60, 40])
    low, high = bars[0].lines[1]
    lengths = [float(top) - float(end) for top, end in zip(high.get_ydata(), low.get_ydata(), strict=True)]
    assert lengths == pytest.approx([4, 4, 4])
    labels = {text.get_text(): text for text in axes.texts}
    assert set(labels) == {"From scratch (BN)", "Fine-tuned face net", "FN2EN", "FN2EN, start"}
    places = sorted(float(text.xyann[1]) for text in axes.texts)
    gap = learning_curve.LABEL_GAP * np.ptp(axes.get_ylim())
    assert np.diff(places).min() > 0.99 * gap  # three lines end at one value


@pytest.mark.parametrize(("ending", "begin"), [("webp", b"RIFF"), ("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_script_writes_the_figure_and_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, begin: bytes
) -> None:
    out, csv = tmp_path / f"curve.{ending}", tmp_path / "numbers" / "curve.csv"
    words = ["learning_curve.py", *write_tables(tmp_path), "--out", str(out), "--csv", str(csv)]
    monkeypatch.setattr(sys, "argv", words)
    learning_curve.main()
    assert out.read_bytes().startswith(begin)
    assert len(pd.read_csv(csv)) == 4 * 3
    if ending == "webp":
        assert Image.open(out).size[0] > 1000


def test_another_table_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"pictures": [1], "method": ["fn2en"]}).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(UserError, match="lacks the column accuracy"):
        learning_curve.read_curve([str(tmp_path / "table.csv")])
