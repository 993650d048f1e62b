"""Analyses in a run folder, as the report reads them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.report import figures
from facenet2expnet.report.analyses import FOLDER, read_analyses


def result(name: str, title: str) -> AnalysisResult:
    table = pd.DataFrame({"layer": ["pool5"], "les_change": [1234], "share": [0.5], "maps": [True]})
    with figures.style():
        figure = figures.new_figure(2, 2)
        figure.add_subplot().plot([0, 1])
    return AnalysisResult(name, title, "A summary.", table, figure, table)


def test_analyses_are_in_the_papers_order_with_figure_and_table(tmp_path: Path) -> None:
    for name in ("stage1", "neurons", "mean-faces", "confusion"):
        result(name, f"About {name}").save(tmp_path / FOLDER)
    found = read_analyses(tmp_path, [])
    assert [one.title for one in found] == ["About neurons", "About mean-faces", "About stage1"]
    assert found[0].summary == "A summary."
    assert found[0].pictures[0].startswith("data:image/svg+xml;base64,")
    assert found[0].table is not None
    assert found[0].table.iloc[0].tolist() == ["pool5", "1,234", "0.5", "True"]
    assert found[0].table.columns.tolist() == ["layer", "les change", "share", "maps"]


def test_a_run_without_analyses_has_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    unread: list[str] = []
    assert read_analyses(tmp_path, unread) == []
    result("neurons", "About").save(tmp_path / FOLDER)
    (tmp_path / FOLDER / "neurons.txt").write_bytes(b"\xff\xfe\xff")
    assert read_analyses(tmp_path, unread) == []
    assert "neurons.txt and its files can't be read" in unread[0]
