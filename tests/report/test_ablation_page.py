"""An ablation's table, figures and page, from numbers written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from facenet2expnet import recipe as recipes
from facenet2expnet.cli.main import make_app
from facenet2expnet.errors import UserError
from facenet2expnet.report.ablation_page import axis_figure, axis_rows, read_ablation, text, write_ablation


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
            "p_value": 0.04 if number else float("nan"), "units": 4 if number else float("nan"),
            "unit": "picture" if number else "", "folder": f"trainings/fn2en-{number}", "stopped": "",
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
    assert table["changed"].tolist() == ["as the recipe says [0]", "width 0.25 [1]", "width 1 [2]"]
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


def test_a_value_that_is_the_recipes_own_however_written_is_no_second_row(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    table = pd.read_csv(folder / "table.csv", dtype={"axis width": str})
    table["axis width"] = ["", "0.50", "1"]
    table.loc[1, "folder"] = table.loc[0, "folder"]
    table.to_csv(folder / "table.csv", index=False)
    assert axis_rows(read_ablation(folder), "width")["value"].tolist() == ["0.50", "1"]


def test_a_recipe_file_named_as_the_variant_keeps_its_row(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    about = json.loads((folder / "ablation.json").read_text())
    (folder / "ablation.json").write_text(json.dumps({**about, "axes": {"recipe": ["quick", "best"]}}))
    table = pd.read_csv(folder / "table.csv").rename(columns={"axis width": "axis recipe"})
    table["axis recipe"] = ["", "quick", "best"]
    table.to_csv(folder / "table.csv", index=False)
    rows = axis_rows(read_ablation(folder), "recipe")
    assert rows["value"].tolist() == ["quick (as given)", "quick", "best"]
    assert rows["tag"].tolist() == ["0", "1", "2"]


def test_a_crossed_axis_is_the_mean_over_the_others(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a", crossed=True)), "width")
    assert rows["spread"].isna().all(), "a mean of deviations is none"
    assert rows["tag"].tolist() == ["a", "b"]
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
    assert "4 variants of the recipe" in page
    assert "paired over 4 pictures" in page
    assert "standard deviation" not in page
    assert "�" not in page
    for name in ("table.md", "axis-width.svg", "axis-width.png", "axis-objective.csv"):
        assert (folder / name).stat().st_size > 0


def test_the_page_says_what_its_bars_are_and_counts_one_variant_as_one(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    table = pd.read_csv(folder / "table.csv").iloc[:2]
    table.to_csv(folder / "table.csv", index=False)
    page = write_ablation(folder).read_text(encoding="utf-8")
    assert "1 variant of the recipe" in page
    assert "one standard deviation of the mean over folds, over seeds" in page
    table.assign(spread_over="folds").to_csv(folder / "table.csv", index=False)
    assert "one standard deviation over folds" in write_ablation(folder).read_text(encoding="utf-8")


def test_the_page_of_an_older_table_can_be_written_again(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    table = pd.read_csv(folder / "table.csv", dtype={"axis width": str}).drop(columns=["units", "unit"])
    table.to_csv(folder / "table.csv", index=False)
    result = CliRunner().invoke(make_app(), ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert "paired over the same subjects or pictures" in (folder / "report.html").read_text(encoding="utf-8")


def test_figures_of_an_axis_that_is_shown_no_more_are_removed(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    for name in ("axis-stage2.lr.svg", "axis-stage2.lr.csv", "axis-notes.txt"):
        (folder / name).write_text("old")
    write_ablation(folder)
    found = {path.name for path in folder.glob("axis-*")}
    assert found == {"axis-notes.txt", *(f"axis-width.{kind}" for kind in ("svg", "pdf", "png", "csv"))}


def test_a_table_of_an_earlier_call_with_other_axes_is_no_result(tmp_path: Path) -> None:
    folder = ablation_folder(tmp_path / "a")
    about = json.loads((folder / "ablation.json").read_text())
    (folder / "ablation.json").write_text(json.dumps({**about, "axes": {"tap": ["early"]}}))
    with pytest.raises(UserError, match="no finished ablation"):
        read_ablation(folder)


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


def test_labels_of_long_objectives_stay_apart(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a")), "width")
    rows["value"] = [f"standardised-l2 + {weight} * attention-transfer" for weight in (0.5, 1, 2)]
    labels = [label.get_text() for label in axis_figure(rows, "objective").axes[0].get_yticklabels()]
    assert [label.rsplit(maxsplit=1)[1] for label in labels] == ["[1]", "[0]", "[2]"]
    assert [weight in label for weight, label in zip(("0.5", "1", "2"), labels, strict=True)] == [True] * 3
    assert max(len(line) for label in labels for line in label.splitlines()) <= 32


def test_a_cost_that_hardly_differs_is_not_drawn(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a")), "width")
    rows["multiply_adds"], rows["training_seconds"] = 2e6, [60.0, 61.0, 64.0]
    assert len(axis_figure(rows, "width").axes) == 1
    rows["training_seconds"] = [60.0, 61.0, 69.0]
    assert len(axis_figure(rows, "width").axes) == 2


def test_a_learning_curve_labels_the_ends_of_each_method_and_its_unit(tmp_path: Path) -> None:
    one = axis_rows(read_ablation(ablation_folder(tmp_path / "a")), "width")
    one["value"], one["training_seconds"] = ["250", "500", "1000"], [10.0, 20.0, 40.0]
    rows = pd.concat([one.assign(method=method) for method in ("scratch", "fn2en")], ignore_index=True)
    left, right = axis_figure(rows, "pictures").axes
    assert left.get_xlabel() == "training pictures"
    assert [note.get_text() for note in right.texts] == ["250", "1,000", "250", "1,000"]
    assert [len(line.get_xdata()) for line in right.lines] == [3, 3]


def test_costs_of_very_different_size_are_told_in_plain_numbers(tmp_path: Path) -> None:
    rows = axis_rows(read_ablation(ablation_folder(tmp_path / "a")), "width")
    rows["multiply_adds"] = [2e6, 3e7, 9e8]
    figure = axis_figure(rows, "width")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert {"2", "20", "500"} <= set(labels)
    assert not any("$" in label for label in labels)
