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


def test_numbers_as_text() -> None:
    assert tables.percent(0.48171) == "48.2"
    assert tables.percent(None) == tables.percent(float("nan")) == "–"
    assert tables.percent_std(0.5, 0.01234) == "50.0 ± 1.2"
    assert tables.percent_std(0.5, None) == "50.0"
    assert [tables.p_text(p) for p in (0.0004, 0.0123, 1.0, None)] == ["< 0.001", "0.012", "1.000", "–"]
    assert [tables.points(d) for d in (0.0123, -0.2, None)] == ["+1.2", "-20.0", "–"]


def test_the_comparison_has_means_standard_deviations_and_sizes(metrics: dict[str, Any]) -> None:
    sizes = [{"method": "fn2en", "parameters": 10_600_000, "megabytes": 42.4, "ms_per_picture": 9.0}]
    text = tables.comparison_text(metrics, "sample", sizes).set_index("method")
    runs = [100 * run["accuracy"] for run in metrics["methods"]["fn2en"]["runs"]]
    expected = f"{np.mean(runs):.1f} ± {np.std(runs, ddof=1):.1f}"
    assert text.loc["FN2EN", "accuracy, % (± over folds)"] == expected
    assert text["weights, M"].tolist() == ["–", "–", "10.60"]
    assert text["ms per picture"].tolist() == ["–", "–", "9.0"]


def test_the_papers_numbers_are_shown_only_on_its_datasets(metrics: dict[str, Any]) -> None:
    text = tables.comparison_text(metrics, "CK+")
    assert text["paper, %"].tolist() == ["88.7", "89.9", "96.8"]
    assert "paper, %" not in tables.comparison_text(metrics, "sample")
    assert "weights, M" not in text


def test_names_are_never_markup() -> None:
    table = pd.DataFrame({"a|b": ["[bold]x[/bold]", "y|z"]})
    screen = io.StringIO()
    Console(file=screen, width=80).print(tables.to_rich(table))
    assert "[bold]x[/bold]" in screen.getvalue()


def test_paired_tests_as_text(metrics: dict[str, Any]) -> None:
    text = tables.paired_text(metrics)
    assert text["comparison"].tolist()[1] == "FN2EN minus From scratch (BN)"
    assert text["units"].tolist() == ["8 subjects"] * 3
    assert tables.units_text(1200, "subject or picture") == "1,200 subjects or pictures"


def test_a_paired_test_without_a_p_value_has_a_dash(metrics: dict[str, Any]) -> None:
    for test in metrics["paired_tests"]:
        test.update(p_value=None, p_holm=None, low=None, high=None, trainings=1)
    text = tables.paired_text(metrics)
    assert set(text["p"]) == set(text["p (Holm)"]) == set(text["95 % interval"]) == {"–"}
    assert text["trainings"].tolist() == ["1"] * 3


def test_scaling_shows_the_range_of_temperatures_and_the_scores(metrics: dict[str, Any]) -> None:
    assert tables.scaling_text(metrics).empty
    scores = {"negative_log_likelihood": 1.5, "expected_calibration_error": 0.1}
    metrics["methods"]["fn2en"]["scaling"] = {
        "temperatures": [1.25, 2.0, 1.5],
        "before": scores,
        "after": scores,
    }
    text = tables.scaling_text(metrics)
    assert text.iloc[0, :2].tolist() == ["FN2EN", "1.25, 2"]
    assert text["before: expected calibration error"].tolist() == ["0.1"]


def test_classes_as_text(metrics: dict[str, Any]) -> None:
    method = metrics["methods"]["fn2en"]
    text, row = tables.per_class_text(method), method["per_class"][0]
    assert text.iloc[0].tolist() == ["anger", 12, *(f"{100 * row[name]:.1f}" for name in ("recall", "precision", "f1"))]


def test_subjects_and_folds_count_a_picture_once_whatever_the_seeds(
    make_run: Callable[..., Path],
) -> None:
    run = make_run(pictures=False, folds=1, per_class=6, subjects=4, seeds=(0, 1))
    metrics = json.loads((run / "metrics.json").read_text())
    by_subject = tables.per_subject(metrics)
    assert by_subject["subject"].tolist() == [f"S{i:03d}" for i in range(4)]
    assert by_subject["pictures"].sum() == 48
    by_fold = tables.per_fold(metrics)
    assert by_fold[["fold", "seed"]].to_numpy().tolist() == [["01", 0], ["01", 1]]
    assert by_fold["fn2en"].tolist() == [run["accuracy"] for run in metrics["methods"]["fn2en"]["runs"]]
    assert "accuracy, % (± over seeds)" in tables.comparison_text(metrics)
