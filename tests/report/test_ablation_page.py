"""An ablation's table, figures and page, from numbers written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from facenet2expnet.cli.main import make_app
from facenet2expnet.errors import UserError
from facenet2expnet.report import ablation_page
from facenet2expnet.report.ablation_page import axis_figure, axis_rows, read_ablation, table_text

AXIS = "expnet.width"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The recipe (width 0.5) and the widths 0.25 and 1: four pictures, two seeds."""
    rows, predictions = [], []
    for number, (width, correct) in enumerate({"": (2, 3), "0.25": (1, 1), "1": (4, 3)}.items()):
        row = {
            "number": number, f"axis {AXIS}": width, "method": "fn2en", "pictures": 8, "accuracy": sum(correct) / 8,
            "std": 0.1, "std_over": "seeds", "balanced_accuracy": 0.5, "negative_log_likelihood": 1.0, "r2": 0.25,
            "training_seconds": 60.0 + number, "parameters": 10**6 * (number + 1), "multiply_adds": 2 * 10**6,
            "folder": f"trainings/fn2en-{number}", "stopped": "", "difference": 0.125 if number else None, "low": 0.0,
            "high": 0.25, "p_value": 0.04 if number else None, "units": 4 if number else None, "unit": "picture",
        }  # fmt: skip
        rows.append(row)
        for seed, count in enumerate(correct):
            table = pd.DataFrame(
                {"image": range(4), "truth": "joy", "predicted": ["joy"] * count + ["fear"] * (4 - count)}
            )
            predictions.append(table.assign(fold="a", seed=seed, method=f"{number} fn2en"))
    folder = tmp_path / "ablation"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    pd.concat(predictions).to_parquet(folder / "predictions.parquet")
    (folder / "recipe.toml").write_text("[expnet]\nwidth = 0.5\n")
    metadata = {
        "created": "2017-05-30T00:00:00+00:00", "command": "fn2en ablate <x>", "axes": {AXIS: ["0.25", "1"]},
        "methods": ["fn2en"], "seeds": [0, 1], "device": "a machine", "manifest": {"name": "faces & more"},
        "protocol": {"name": "split", "note": "", "folds": 1}, "recipe": {"name": "quick", "expnet": {"width": 0.5}},
        "checks": ["Nobody is in <two> parts."],
    }  # fmt: skip
    (folder / "ablation.json").write_text(json.dumps(metadata))
    return folder


def edit_table(folder: Path, /, **columns: Any) -> None:
    table = pd.read_csv(folder / "table.csv", dtype={f"axis {AXIS}": str})
    table.assign(**columns).to_csv(folder / "table.csv", index=False)


def test_the_table_shows_changes_and_differences(folder: Path) -> None:
    table = table_text(read_ablation(folder))
    assert table["change"].tolist() == ["unchanged recipe [0]", f"{AXIS} 0.25 [1]", f"{AXIS} 1 [2]"]
    assert table["accuracy, % (± over seeds)"].tolist() == ["62.5 ± 10.0", "25.0 ± 10.0", "87.5 ± 10.0"]
    assert table["difference, points (95 %)"].tolist() == ["–", *["+12.5 (+0.0 to +25.0)"] * 2]
    assert table["p"].tolist() == ["–", "0.040", "0.040"]
    assert table["units"].tolist() == ["–", "4 pictures", "4 pictures"]
    assert "method" not in table, "there is one"
    edit_table(folder, p_value=float("nan"), std=float("nan"))
    table = table_text(read_ablation(folder))
    assert "p" not in table
    assert table["accuracy, %"].tolist() == ["62.5", "25.0", "87.5"]


def test_numbers_of_an_axis_are_a_curve_with_the_recipes_own_value(folder: Path) -> None:
    rows = axis_rows(read_ablation(folder), AXIS)
    assert rows["value"].tolist() == ["0.25", "0.5", "1"]
    assert rows["runs"].tolist() == [[0.25, 0.25], [0.5, 0.75], [1.0, 0.75]]
    axes = axis_figure(rows, AXIS).axes[0]
    assert [float(label.get_text()) for label in axes.get_xticklabels()] == [0.25, 0.5, 1.0]


def test_words_of_an_axis_are_lines_that_name_their_row(folder: Path) -> None:
    rows = axis_rows(read_ablation(folder), AXIS)
    rows["value"] = [f"standardised-l2 + {weight} * rkd and more words than fit" for weight in (0.5, 1, 2)]
    labels = [label.get_text() for label in axis_figure(rows, AXIS).axes[0].get_yticklabels()]
    assert [label.rsplit(maxsplit=1)[1] for label in labels] == ["[1]", "[0]", "[2]"]
    assert max(map(len, labels)) <= 40


def test_the_unchanged_recipe_has_its_own_value_on_every_axis_unless_a_variant_is_the_same(
    folder: Path,
) -> None:
    metadata = json.loads((folder / "ablation.json").read_text())
    for axis, value in (("pictures", "8"), ("recipe", "quick"), ("unknown", "unchanged")):
        (folder / "ablation.json").write_text(json.dumps({**metadata, "axes": {axis: ["x", "y"]}}))
        edit_table(folder, **{f"axis {axis}": ["", "x", "y"]})
        assert axis_rows(read_ablation(folder), axis)["value"].tolist() == [value, "x", "y"]
    edit_table(folder, folder=["a", "a", "b"])
    assert axis_rows(read_ablation(folder), "unknown")["value"].tolist() == ["x", "y"]


def test_the_page_is_whole_and_escapes_what_it_quotes(folder: Path) -> None:
    edit_table(folder, covers="It covers <seeds>.", reason="")
    for name in ("axis-stage2.lr.svg", "axis-notes.txt"):
        (folder / name).write_text("old")
    page = ablation_page.write_ablation(folder).read_text(encoding="utf-8")
    assert page.count('src="data:image/svg+xml') == page.count('href="data:text/csv') == 1
    for text in (
        "faces &amp; more",
        "fn2en ablate &lt;x&gt;",
        "Nobody is in &lt;two&gt; parts.",
        "2 variants of the",
    ):
        assert text in page
    assert page.count("It covers &lt;seeds&gt;.") == 1
    files = {path.name for path in folder.glob("axis-*")}
    assert files == {"axis-notes.txt", *(f"axis-{AXIS}.{kind}" for kind in ("svg", "pdf", "png", "csv"))}


def test_a_stopped_variant_is_listed_and_not_drawn(folder: Path) -> None:
    edit_table(folder, stopped=["", "", "stage1: R2 is <0>"])
    assert "stage1: R2 is &lt;0&gt;" in ablation_page.write_ablation(folder).read_text(encoding="utf-8")
    assert table_text(read_ablation(folder)).iloc[2, 1] == "stopped"
    assert axis_rows(read_ablation(folder), AXIS)["value"].tolist() == ["0.25", "0.5"]


def test_a_folder_without_a_finished_ablation_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fn2en ablate"):
        read_ablation(tmp_path)
    metadata = json.loads((folder / "ablation.json").read_text())
    (folder / "ablation.json").write_text(json.dumps({**metadata, "axes": {"tap": ["early"]}}))
    with pytest.raises(UserError, match="no finished ablation"):
        read_ablation(folder)


def test_the_report_command_writes_the_page_of_an_ablation(folder: Path) -> None:
    done = CliRunner().invoke(make_app(), ["report", str(folder)])
    assert done.output.strip() == str(folder / "report.html")
