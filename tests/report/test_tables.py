"""The tables of a comparison."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from facenet2expnet.report import tables


@pytest.fixture
def metrics(make_run: Callable[..., Path]) -> dict[str, Any]:
    run = make_run(pictures=False, folds=4, per_class=12, subjects=8)
    return json.loads((run / "metrics.json").read_text())


def test_numbers_as_text():
    assert tables.percent(0.48171) == "48.2"
    assert tables.percent(None) == tables.percent(float("nan")) == "–"
    assert tables.percent_spread(0.5, 0.01234) == "50.0 ± 1.2"
    assert tables.percent_spread(0.5, None) == "50.0"
    assert [tables.p_text(p) for p in (0.0004, 0.0123, 1.0, None)] == ["< 0.001", "0.012", "1.000", "–"]


def test_comparison_has_mean_spread_and_sizes(metrics: dict[str, Any]):
    sizes = [{"method": "fn2en", "parameters": 10_600_000, "megabytes": 42.4, "ms_per_picture": 9.0}]
    table = tables.comparison(metrics, "sample", sizes).set_index("method")
    runs = [run["accuracy"] for run in metrics["methods"]["fn2en"]["runs"]]
    assert table.loc["fn2en", "accuracy"] == pytest.approx(np.mean(runs))
    assert table.loc["fn2en", "spread"] == pytest.approx(np.std(runs, ddof=1))
    assert table.loc["fn2en", "parameters"] == 10_600_000
    assert np.isnan(table.loc["scratch", "parameters"])
    assert table["paper"].isna().all()


def test_the_papers_numbers_stand_beside_ours_on_its_datasets_only(metrics: dict[str, Any]):
    text = tables.comparison_text(tables.comparison(metrics, "CK+"))
    assert text["paper, %"].tolist() == ["88.7", "89.9", "96.8"]
    assert "paper, %" not in tables.comparison_text(tables.comparison(metrics, "sample"))
    assert "weights, M" not in text


def test_markdown_and_terminal_show_the_same(metrics: dict[str, Any]):
    markdown = tables.comparison_markdown(metrics, "CK+").splitlines()
    assert markdown[0].startswith("| method | accuracy, % (± over folds) | paper, % |")
    assert len(markdown) == 5
    screen = io.StringIO()
    Console(file=screen, width=160).print(tables.comparison_rich(metrics, "CK+"))
    for cell in markdown[4].strip("| ").split(" | "):
        assert cell in screen.getvalue()


def test_names_are_never_markup():
    table = pd.DataFrame({"a|b": ["[bold]x[/bold]", "y|z"]})
    assert tables.to_markdown(table).splitlines() == [
        "| a\\|b |",
        "| --- |",
        "| [bold]x[/bold] |",
        "| y\\|z |",
    ]
    screen = io.StringIO()
    Console(file=screen, width=80).print(tables.to_rich(table))
    assert "[bold]x[/bold]" in screen.getvalue()


def test_paired_tests_as_text(metrics: dict[str, Any]):
    text = tables.paired_text(metrics)
    assert text["comparison"].tolist()[1] == "FN2EN minus From scratch (BN)"
    assert text["units"].tolist() == ["8 subjects"] * 3


def test_units_of_a_paired_test_in_words():
    assert tables.units_text(1200, "picture") == "1,200 pictures"
    assert tables.units_text(12, "subject or picture") == "12 subjects or pictures"


def test_classes_subjects_and_folds(metrics: dict[str, Any]):
    by_class, by_subject, by_fold = (
        f(metrics) for f in (tables.per_class, tables.per_subject, tables.per_fold)
    )
    assert by_class["pictures"].tolist() == [12] * 8
    assert by_class.loc[0, "fn2en recall"] == metrics["methods"]["fn2en"]["per_class"][0]["recall"]
    assert len(by_subject) == 8
    assert by_subject["pictures"].sum() == 96
    assert by_fold["fold"].tolist() == ["01", "02", "03", "04"]


def test_pictures_are_counted_once_whatever_the_seeds(make_run: Callable[..., Path]):
    run = make_run(pictures=False, folds=2, per_class=6, subjects=4, seeds=(0, 1))
    metrics = json.loads((run / "metrics.json").read_text())
    assert tables.per_class(metrics)["pictures"].tolist() == [6] * 8
    assert tables.per_subject(metrics)["pictures"].sum() == 48
    assert tables.per_fold(metrics)[["fold", "seed"]].to_numpy().tolist() == [
        ["01", 0],
        ["02", 0],
        ["01", 1],
        ["02", 1],
    ]


def test_one_fold_and_several_seeds_spread_over_seeds(make_run: Callable[..., Path]):
    run = make_run(pictures=False, folds=1, per_class=6, subjects=0, seeds=(0, 1, 2), methods=("fn2en",))
    metrics = json.loads((run / "metrics.json").read_text())
    assert "accuracy, % (± over seeds)" in tables.comparison_text(tables.comparison(metrics))
