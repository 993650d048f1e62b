"""The report of an ablation: a table, a figure per axis, and one HTML page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.report import figures, tables
from facenet2expnet.report.page import page_figure, render
from facenet2expnet.report.tables import display_name, number, percent, percent_std, points


@dataclass(frozen=True, eq=False)
class Ablation:
    """The files of an ablation folder."""

    metadata: dict[str, Any]  # ablation.json
    table: pd.DataFrame  # table.csv: a row for each variant and method; number 0 is the unchanged recipe
    predictions: pd.DataFrame  # of every training; `method` is "NUMBER METHOD"


def read_ablation(folder: Path) -> Ablation:
    """Read an ablation folder.

    Raises:
        UserError: If it holds no finished ablation.
    """
    try:
        metadata = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        texts = [*(f"axis {axis}" for axis in metadata["axes"]), "stopped"]
        table = pd.read_csv(folder / "table.csv", dtype=dict.fromkeys(texts, str))
        table[texts]  # an earlier call with other axes may have written the table
        predictions = pd.read_parquet(folder / "predictions.parquet")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no finished ablation ({error}); make one with fn2en ablate") from None
    return Ablation(metadata, table.fillna(dict.fromkeys(texts, "")), predictions)


def write_ablation(folder: Path) -> Path:
    """Write the figure of every axis and report.html into an ablation folder; return the page.

    Figures of axes that the table no longer has are deleted.
    """
    ablation = read_ablation(folder)
    written: list[Path] = []
    parts: dict[str, dict[str, Any]] = {}
    for axis in ablation.metadata["axes"]:
        rows = axis_rows(ablation, axis)
        if len(rows):
            figure = axis_figure(rows, axis)
            written += figures.save_figure(figure, folder / f"axis-{axis}", rows)
            parts[axis] = page_figure(f"axis-{axis}", figure, rows)
    for path in folder.glob("axis-*"):
        if path not in written and path.suffix in (".svg", ".pdf", ".png", ".csv"):
            path.unlink()
    table = ablation.table
    notes = [note for key in ("covers", "reason") if key in table for note in table[key].dropna().unique()]
    context = {
        "metadata": ablation.metadata,
        "rows": table_text(ablation),
        "parts": parts,
        "variants": table["number"].nunique() - 1,
        "notes": notes,
        "stopped": tables.as_text(table.loc[table["stopped"] != "", ["number", "stopped"]]),
        "recipe": (folder / "recipe.toml").read_text("utf-8"),
    }
    write_atomic(folder / "report.html", render("ablation.html.j2", context))
    return folder / "report.html"


def table_text(ablation: Ablation) -> pd.DataFrame:
    """The table of the ablation as text."""
    table, axes = ablation.table, list(ablation.metadata["axes"])
    over = "".join(f" (± over {over})" for over in table.loc[table["std"].notna(), "std_over"].unique())
    rows = []
    for row in table.to_dict("records"):
        changes = ", ".join(f"{axis} {row[f'axis {axis}']}" for axis in axes if row[f"axis {axis}"])
        interval = f"{points(row['difference'])} ({points(row['low'])} to {points(row['high'])})"
        tested = tables.is_number(row["difference"])
        accuracy = "stopped" if row["stopped"] else percent_std(row["accuracy"], row["std"])
        rows.append(
            {
                "change": f"{changes or 'unchanged recipe'} [{row['number']}]",
                "method": display_name(row["method"]),
                "pictures": f"{row['pictures']:,}",
                f"accuracy, %{over}": accuracy,
                "difference, points (95 %)": interval if tested else tables.NONE,
                "p": tables.p_text(row["p_value"]),
                "units": tables.units_text(int(row["units"]), row["unit"]) if tested else tables.NONE,
                "balanced accuracy, %": percent(row["balanced_accuracy"]),
                "log loss": number(row["negative_log_likelihood"]),
                "R² of stage 1": "< −1" if row["r2"] < -1 else number(row["r2"], 2),
                "weights, M": number(row["parameters"] / 1e6, 2),
                "multiply-adds, M": number(row["multiply_adds"] / 1e6, 0),
                "training, min": number(row["training_seconds"] / 60, 1),
            }
        )
    same = [name for name in ("method", "pictures") if table[name].nunique() == 1]
    return tables.without_empty(pd.DataFrame(rows).drop(columns=same))


def axis_rows(ablation: Ablation, axis: str) -> pd.DataFrame:
    """The rows of one axis: the unchanged recipe and every value; stopped trainings are left out.

    Returns:
        Columns value, number (of the row in the table), method, accuracy, std, runs (the accuracies of the folds and
        seeds), pictures, parameters, multiply_adds, training_seconds; sorted if all values are numbers.
    """
    table, predictions = ablation.table[ablation.table["stopped"] == ""], ablation.predictions
    varied = table[table[f"axis {axis}"] != ""]
    base = table[table["number"] == 0]
    trainings = [dict(zip(part["method"], part["folder"], strict=True)) for _, part in varied.groupby("number")]
    if dict(zip(base["method"], base["folder"], strict=True)) in trainings:  # a value is the recipe's own
        base = base[:0]
    if len(base):
        base = base.assign(**{f"axis {axis}": _base_value(ablation.metadata, axis, base)})
    rows = pd.concat([base, varied]).rename(columns={f"axis {axis}": "value"}).reset_index(drop=True)
    correct = predictions["truth"] == predictions["predicted"]
    runs: Any = correct.groupby([predictions["method"], predictions["seed"], predictions["fold"]]).mean()
    names = rows["number"].astype(str) + " " + rows["method"]
    rows["runs"] = [runs[name].round(5).tolist() for name in names]
    numbers = pd.to_numeric(rows["value"], errors="coerce")
    if numbers.notna().all():
        rows = rows.iloc[numbers.argsort(kind="stable")].reset_index(drop=True)
    scores = ["value", "number", "method", "accuracy", "std", "runs", "pictures"]
    return rows[[*scores, "parameters", "multiply_adds", "training_seconds"]]


def _base_value(metadata: dict[str, Any], axis: str, base: pd.DataFrame) -> str:
    """The value of an axis in the unchanged recipe."""
    if axis == "pictures":
        return str(int(base["pictures"].iloc[0]))
    value: Any = metadata["recipe"]
    for name in ("name",) if axis == "recipe" else axis.split("."):
        value = value.get(name, "unchanged") if isinstance(value, dict) else "unchanged"
    return value if isinstance(value, str) else json.dumps(value)


def axis_figure(rows: pd.DataFrame, axis: str) -> Figure:
    """Accuracy by value, from the result of `axis_rows`: a curve if the values are numbers, else a line each."""
    numbers = pd.to_numeric(rows["value"], errors="coerce")
    if numbers.notna().all() and numbers.nunique() > 1:
        name = "training pictures" if axis == "pictures" else axis
        return figures.accuracy_curves(rows.assign(value=numbers), name)
    labels = [f"{value or 'none'} [{n}]" for value, n in zip(rows["value"], rows["number"], strict=True)]
    return figures.accuracy_rows(rows.assign(label=labels), title=axis)
