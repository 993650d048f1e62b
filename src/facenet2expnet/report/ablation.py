"""An ablation as a table, a figure an axis, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from facenet2expnet.data.writing import write_whole
from facenet2expnet.errors import UserError
from facenet2expnet.report import figures, tables
from facenet2expnet.report.html import inline_svg
from facenet2expnet.report.tables import number, p_text, percent, percent_spread, shown


@dataclass(frozen=True, eq=False)
class Ablation:
    """What an ablation's folder holds.

    Attributes:
        about: ablation.json.
        table: table.csv; a row for the recipe as it is and for every variant, times the methods.
        predictions: of every training; its `method` is "NUMBER METHOD".
    """

    about: dict[str, Any]
    table: pd.DataFrame
    predictions: pd.DataFrame


def read_ablation(folder: Path) -> Ablation:
    """Read an ablation's folder.

    Raises:
        UserError: If it is none, or not finished.
    """
    try:
        about = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        texts = [*(f"axis {axis}" for axis in about["axes"]), "stopped"]
        table = pd.read_csv(folder / "table.csv", dtype=dict.fromkeys(texts, str))
        predictions = pd.read_parquet(folder / "predictions.parquet")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no finished ablation ({error}); make one with fn2en ablate") from None
    return Ablation(about, table.fillna(dict.fromkeys(texts, "")), predictions)


def write_ablation(folder: Path) -> Path:
    """Write table.md, a figure for every axis and report.html into an ablation's folder; returns the page."""
    ablation = read_ablation(folder)
    write_whole(folder / "table.md", (tables.to_markdown(text(ablation)) + "\n").encode())
    parts: list[dict[str, Any]] = []
    for axis in ablation.about["axes"]:
        rows = axis_rows(ablation, axis)
        if rows.empty:  # all its values were stopped
            continue
        figure = axis_figure(rows, axis)
        figures.save_figure(figure, folder / f"axis-{axis}", rows)
        label = f"Accuracy by {axis}, and against its cost"
        parts.append({"axis": axis, "svg": inline_svg(figure, f"axis-{len(parts)}", label), "label": label})
    environment = Environment(
        loader=PackageLoader("facenet2expnet.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(readable=figures.readable)
    stopped = [
        (_changed(row, ablation.about["axes"]), row["stopped"])
        for _, row in ablation.table[ablation.table["stopped"] != ""].iterrows()
    ]
    page = environment.get_template("ablation.html.j2").render(
        stopped=stopped,
        about=ablation.about,
        table=text(ablation),
        parts=parts,
        subjects_known="subject" in ablation.predictions,
        recipe=(folder / "recipe.toml").read_text("utf-8"),
    )
    write_whole(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html"


def text(ablation: Ablation) -> pd.DataFrame:
    """The table as text to print."""
    table, axes = ablation.table, list(ablation.about["axes"])
    over = str(table["spread_over"].dropna().iloc[0])
    spread = table["spread"].notna().any()
    columns: dict[str, list[str]] = {"changed": [_changed(row, axes) for _, row in table.iterrows()]}
    if table["method"].nunique() > 1:
        columns["method"] = [shown(name) for name in table["method"]]
    if table["pictures"].nunique() > 1:
        columns["pictures"] = [f"{count:,}" for count in table["pictures"]]
    columns["accuracy, %" + (f" (± over {over})" if spread else "")] = [
        "stopped" if stopped else percent_spread(a, s)
        for a, s, stopped in zip(table["accuracy"], table["spread"], table["stopped"], strict=True)
    ]
    columns["change, points (95 %)"] = [
        tables.NONE if np.isnan(d) else f"{d * 100:+.1f} ({low * 100:+.1f} to {high * 100:+.1f})"
        for d, low, high in zip(table["difference"], table["low"], table["high"], strict=True)
    ]
    columns["p"] = [p_text(p) for p in table["p_value"]]
    columns["balanced, %"] = [percent(v) for v in table["balanced_accuracy"]]
    columns["log loss"] = [number(v) for v in table["negative_log_likelihood"]]
    columns["R² of stage 1"] = ["< −1" if v < -1 else number(v, 2) for v in table["r2"]]
    columns["weights, M"] = [number(v / 1e6, 2) for v in table["parameters"]]
    columns["multiply-adds, M"] = [number(v / 1e6, 0) for v in table["multiply_adds"]]
    columns["own stages, min"] = [number(v / 60, 1) for v in table["training_seconds"]]
    frame = pd.DataFrame(columns)
    return frame[[c for c in frame if c in ("changed", "method") or (frame[c] != tables.NONE).any()]]


def _changed(row: pd.Series, axes: Sequence[str]) -> str:
    parts = [f"{axis} {row[f'axis {axis}']}" for axis in axes if row[f"axis {axis}"]]
    return ", ".join(parts) or "as the recipe says"


def axis_rows(ablation: Ablation, axis: str) -> pd.DataFrame:
    """The rows of one axis: the recipe as it is and every value of it, each accuracy by fold and seed in `runs`.

    In a crossed ablation a value's row is the mean over the values of the other axes.

    Returns:
        Columns value, method, accuracy, spread, runs (text, shares parted by spaces), pictures, parameters,
        multiply_adds, training_seconds.
    """
    table, about = ablation.table, ablation.about
    predictions = ablation.predictions
    right = (predictions["truth"] == predictions["predicted"]).groupby(
        [predictions["method"], predictions["seed"], predictions["fold"]]
    )
    runs: Any = right.mean()
    crossed = about["crossed"] and len(about["axes"]) > 1
    table = table[table["stopped"] == ""]
    kept = table[table[f"axis {axis}"] != ""]
    if not crossed:
        kept = pd.concat([_base_row(ablation, axis), kept])
    rows = []
    for (value, method), part in kept.groupby([f"axis {axis}", "method"], sort=False):
        names = [f"{n} {method}" for n in part["number"]]
        each = [float(a) for name in names for a in runs[name]]
        rows.append(
            {
                "value": value,
                "method": method,
                **{c: part[c].mean() for c in ("accuracy", "spread", "pictures")},
                **{c: part[c].mean() for c in ("parameters", "multiply_adds", "training_seconds")},
                "runs": " ".join(f"{a:.5f}" for a in each),
            }
        )
    found = pd.DataFrame(rows)
    numbers = pd.to_numeric(found["value"], errors="coerce") if len(found) else pd.Series(dtype=float)
    if len(found) and numbers.notna().all():
        return found.iloc[np.argsort(numbers.to_numpy(), kind="stable")].reset_index(drop=True)
    return found


def _base_row(ablation: Ablation, axis: str) -> pd.DataFrame:
    """The recipe as it is, under its own value of the axis; none where that value is varied anyway."""
    base = ablation.table[(ablation.table["number"] == 0) & (ablation.table["stopped"] == "")]
    if base.empty:
        return base
    own = _own_value(ablation.about, axis, base)
    if own in ablation.about["axes"][axis]:
        return base.iloc[:0]
    return base.assign(**{f"axis {axis}": own})


def _own_value(about: Mapping[str, Any], axis: str, base: pd.DataFrame) -> str:
    from facenet2expnet.experiment.ablation import FIELDS, PICTURES, RECIPE

    if axis == PICTURES:
        return str(int(base["pictures"].iloc[0]))
    if axis == RECIPE:
        return str(about["recipe"]["name"])
    value: Any = about["recipe"]
    for name in FIELDS.get(axis, axis).split("."):
        value = value[name]
    return str(value).lower() if isinstance(value, bool) else str(value)


def axis_figure(rows: pd.DataFrame, axis: str) -> Figure:
    """Accuracy by value to the left, against its cost to the right.

    Small marks are folds and seeds, the large one is their mean with one standard deviation to either side. The cost
    is the multiply-adds of a picture where they differ, else the time of the method's own stages, without the
    fine-tuned face net and the teacher's views, which variants share.

    Args:
        rows: what `axis_rows` gave.
        axis: its name.
    """
    methods = [str(name) for name in pd.unique(rows["method"])]
    looks = figures.marks(methods)
    numbers = pd.to_numeric(rows["value"], errors="coerce")
    numeric = bool(numbers.notna().all()) and rows["value"].nunique() > 1
    values = list(pd.unique(rows["value"]))
    height = 3.2 if numeric else 0.34 * len(values) * max(1, 0.7 * len(methods)) + 1.3
    with figures.style():
        figure = figures.new_figure(8.6, max(height, 2.6))
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        (_draw_numbers if numeric else _draw_names)(left, rows, looks, axis)
        _draw_cost(right, rows, looks, values, numbered=not numeric)
        if len(methods) > 1:
            handles = figures.method_handles(looks, {name: shown(name) for name in methods}, line=numeric)
            figure.legend(handles=handles, loc="outside upper center", ncols=min(len(looks), 4))
    return figure


def _draw_numbers(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, figures.Mark], axis: str) -> None:
    for method, part in rows.groupby("method", sort=False):
        mark, x = looks[str(method)], pd.to_numeric(part["value"]).to_numpy()
        axes.errorbar(
            x, part["accuracy"], yerr=part["spread"].fillna(0), color=mark.colour, linestyle=mark.line,
            marker=mark.marker, markersize=6, markeredgecolor="white", elinewidth=1.6,
        )  # fmt: skip
        for place, runs in zip(x, part["runs"], strict=True):
            shares = [float(a) for a in runs.split()]
            axes.plot([place] * len(shares), shares, mark.marker, color=mark.colour, markersize=3, alpha=0.4)
    x = np.unique(pd.to_numeric(rows["value"]))
    if x.min() > 0 and x.max() / x.min() >= 4:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(x, labels=[f"{v:,g}" for v in x])
    axes.set(xlabel=axis, ylabel="accuracy, %")
    figures.percent_axis(axes, "y")
    axes.grid(axis="y")


def _draw_names(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, figures.Mark], axis: str) -> None:
    values = list(pd.unique(rows["value"]))
    for place, method in enumerate(looks):
        mark, shift = looks[method], (place - (len(looks) - 1) / 2) * 0.22
        for _, row in rows[rows["method"] == method].iterrows():
            y, shares = values.index(row["value"]) + shift, [float(a) for a in row["runs"].split()]
            axes.plot(shares, [y] * len(shares), mark.marker, color=mark.colour, markersize=3.5, alpha=0.45)
            if pd.notna(row["spread"]):
                ends = [row["accuracy"] - row["spread"], row["accuracy"] + row["spread"]]
                axes.plot(ends, [y, y], color=mark.colour, linewidth=2)
            axes.plot(
                row["accuracy"], y, mark.marker, color=mark.colour, markersize=7.5, markeredgecolor="white"
            )
    figures.name_ticks(axes, "y", [f"{value or 'none'}  [{n}]" for n, value in enumerate(values, 1)])
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set(xlabel="accuracy, %", title=figures.short(axis, 40))
    figures.percent_axis(axes, "x")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_cost(
    axes: Axes,
    rows: pd.DataFrame,
    looks: Mapping[str, figures.Mark],
    values: Sequence[str],
    *,
    numbered: bool,
) -> None:
    adds = rows["multiply_adds"]
    by_size = rows["method"].nunique() == 1 and adds.max() > 1.02 * adds.min()
    cost = adds / 1e6 if by_size else rows["training_seconds"] / 60
    for (_, row), x in zip(rows.iterrows(), cost, strict=True):
        mark = looks[str(row["method"])]
        axes.plot(x, row["accuracy"], mark.marker, color=mark.colour, markersize=6.5, markeredgecolor="white")
        name = f"[{values.index(row['value']) + 1}]" if numbered else f"{float(row['value']):,g}"
        axes.annotate(name, (x, row["accuracy"]), (4, 3), textcoords="offset points", fontsize=7.5)
    if cost.min() > 0 and cost.max() / cost.min() > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(
        xlabel="multiply-adds a picture, M" if by_size else "its own stages, minutes", ylabel="accuracy, %"
    )
    axes.margins(0.12)
    figures.percent_axis(axes, "y")
    axes.grid()
