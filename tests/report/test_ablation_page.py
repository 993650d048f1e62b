"""An ablation's table, figures and page, from numbers written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from facenet2expnet import recipe as recipes
from facenet2expnet.errors import UserError
from facenet2expnet.report.ablation import axis_figure, axis_rows, read_ablation, text, write_ablation


def ablation_folder(folder: Path, *, crossed: bool = False) -> Path:
    """Base and two widths; with `crossed` two widths times two objectives. Four pictures, two seeds."""
    axes = {"width": ["0.25", "1"], "objective": ["srd", "<b>"]} if crossed else {"width": ["0.25", "1"]}
    changes = (
        [("", ""), ("0.25", "srd"), ("0.25", "<b>"), ("1", "srd"), ("1", "<b>")]
        if crossed
        else [("", None), ("0.25", None), ("1", None)]
    )
    rows, predictions = [], []
    for number, (width, objective) in enumerate(changes):
        right = {0: (2, 3), 1: (1, 1), 2: (4, 3), 3: (3, 3), 4: (2, 2)}[number]
        row = {"number": number, "axis width": width}
        if crossed:
            row["axis objective"] = objective
        shares = [count / 4 for count in right]
        row |= {
            "method": "fn2en", "pictures": 8, "accuracy": sum(shares) / 2, "spread": 0.1, "spread_over": "seeds",
            "balanced_accuracy": 0.5, "negative_log_likelihood": 1.0, "r2": 0.25, "training_seconds": 60.0 + number,
            "parameters": 10**6 * (number + 1), "multiply_adds": 2 * 10**6 * (number + 1),
            "difference": 0.125 if number else float("nan"), "low": 0.0, "high": 0.25,
            "p_value": 0.04 if number else float("nan"), "stopped": "",
        }  # fmt: skip
        rows.append(row)
        for seed, count in enumerate(right):
            for picture in range(4):
                guess = "joy" if picture < count else "fear"
                name = f"{number} fn2en"
                predictions.append(
                    {
                        "image": str(picture),
                        "fold": "a",
                        "seed": seed,
                        "method": name,
                        "truth": "joy",
                        "predicted": guess,
                    }
                )
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    pd.DataFrame(predictions).to_parquet(folder / "predictions.parquet")
    recipe = recipes.override(recipes.preset("quick"), ["expnet.width=0.5"])
    recipes.save(recipe, folder / "recipe.toml")
    about = {
        "format": "facenet2expnet-ablation-1", "created": "2017-05-30", "command": "fn2en ablate <x>", "axes": axes,
        "crossed": crossed, "methods": ["fn2en"], "seeds": [0, 1], "steps_of": 1000, "device": "a machine",
        "manifest": {"name": "faces & more"}, "protocol": {"name": "split", "note": "", "folds": 1},
        "recipe": recipes.to_dict(recipe),
    }  # fmt: skip
    (folder / "ablation.json").write_text(json.dumps(about))
    return folder


def test_the_table_says_what_changed_and_by_how_much(tmp_path: Path) -> None:
    table = text(read_ablation(ablation_folder(tmp_path / "a")))
    assert table["changed"].tolist() == ["as the recipe says", "width 0.25", "width 1"]
    assert table["accuracy, % (± over seeds)"].tolist() == ["62.5 ± 10.0", "25.0 ± 10.0", "87.5 ± 10.0"]
    assert table["change, points (95 %)"].tolist() == ["–", "+12.5 (+0.0 to +25.0)", "+12.5 (+0.0 to +25.0)"]
    assert "method" not in table  # there is one


def test_an_axis_holds_the_recipes_own_value_and_every_run(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a")), "width")
    assert rows["value"].tolist() == ["0.25", "0.5", "1"]
    assert rows["runs"].tolist() == ["0.25000 0.25000", "0.50000 0.75000", "1.00000 0.75000"]
    drawn = axis_figure(rows, "width").axes
    assert [float(t.get_text()) for t in drawn[0].get_xticklabels()] == [0.25, 0.5, 1.0]
    assert drawn[1].get_xlabel() == "multiply-adds a picture, M"


def test_a_crossed_axis_is_the_mean_over_the_others(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a", crossed=True)), "width")
    assert rows["value"].tolist() == ["0.25", "1"]
    assert rows["accuracy"].tolist() == [pytest.approx((0.25 + 0.875) / 2), pytest.approx((0.75 + 0.5) / 2)]


def test_the_page_is_whole_and_what_it_quotes_is_escaped(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a", crossed=True)
    page = write_ablation(folder).read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "faces &amp; more" in page
    assert "objective &lt;b&gt;" in page
    assert "<b>" not in page
    assert "1,000 pictures" in page
    for name in ("table.md", "axis-width.svg", "axis-width.png", "axis-objective.csv"):
        assert (folder / name).stat().st_size > 0


def test_a_folder_that_holds_no_finished_ablation_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fn2en ablate"):
        read_ablation(tmp_path)
    folder = ablation_folder(tmp_path / "a")
    (folder / "table.csv").unlink()
    with pytest.raises(UserError, match="no finished ablation"):
        read_ablation(folder)


def test_a_variant_that_was_stopped_is_told_and_not_drawn(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    table = pd.read_csv(folder / "table.csv")
    table.loc[2, ["accuracy", "spread", "difference", "p_value"]] = float("nan")
    table["stopped"] = ["", "", "stage1: R2 is <0>"]
    table.to_csv(folder / "table.csv", index=False)
    page = write_ablation(folder).read_text(encoding="utf-8")
    assert "stage1: R2 is &lt;0&gt;" in page
    assert text(read_ablation(folder)).iloc[2, 1] == "stopped"
    assert axis_rows(read_ablation(folder), "width")["value"].tolist() == ["0.25", "0.5"]


def test_costs_of_very_different_size_are_told_in_plain_numbers(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a")), "width")
    rows["multiply_adds"] = [2e6, 3e7, 9e8]
    figure = axis_figure(rows, "width")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert {"2", "20", "500"} <= set(labels)
    assert not any("$" in label for label in labels)
