"""What the report reads of a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.report import figures
from facenet2expnet.report.run_folder import ANALYSES, read_run


def save_analysis(name: str, folder: Path) -> None:
    table = pd.DataFrame({"layer": ["pool5"], "les_change": [1234], "share": [0.5], "maps": [True]})
    figure, _ = figures.panels(1, 1, 2, 2)
    AnalysisResult(name, f"About {name}", "A summary.", table, figure, table).save(folder)


def test_analyses_are_in_the_papers_order_with_figure_and_table(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert read_run(tmp_path).analyses == []
    for name in ("stage1", "neurons", "mean-faces", "confusion"):
        save_analysis(name, tmp_path / ANALYSES)
    found = read_run(tmp_path).analyses
    assert [one.title for one in found] == ["About neurons", "About mean-faces", "About stage1"]
    assert found[0].summary == "A summary."
    assert found[0].picture.startswith("data:image/svg+xml;base64,")
    assert found[0].table.iloc[0].tolist() == ["pool5", "1,234", "0.5", "True"]
    assert found[0].table.columns.tolist() == ["layer", "les change", "share", "maps"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b"["),
        ("sizes.json", b"{half"),
        ("predictions.parquet", b"PAR1"),
        ("history.csv", b""),
        ("skipped.csv", b"\xff\xfe\xff"),
        (f"{ANALYSES}/neurons.txt", b"About neurons"),
    ],
)
def test_a_damaged_file_is_named(make_run: Callable[..., Path], name: str, content: bytes) -> None:
    run = make_run(classes=("yes", "no"), folds=2, pictures=False)
    (run / ANALYSES).mkdir()
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: can't be read"):
        read_run(run)


@pytest.mark.parametrize("content", [b"[3]", b'{"root": 5}', b'"x"'])
def test_a_manifest_of_another_form_is_named(make_run: Callable[..., Path], content: bytes) -> None:
    run = make_run(classes=("yes", "no"), folds=2, pictures=False)
    (run / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged: .*; remove it to leave it out"):
        read_run(run)


def test_a_folder_that_is_no_run_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"holds no run\.json; give a folder that `fn2en compare` or `fn2en train`"):
            read_run(folder)


def test_missing_files_are_none_or_empty(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"kind": "train"}))
    run = read_run(tmp_path)
    assert (run.metadata, run.root, run.sizes, run.recipe) == ({"kind": "train"}, tmp_path, [], "")
    assert run.metrics is run.predictions is run.history is run.skipped is run.audit is None
