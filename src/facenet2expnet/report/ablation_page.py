"""An ablation as a table, a figure an axis, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.report import figures, tables
from facenet2expnet.report.page import inline_svg
from facenet2expnet.report.tables import number, p_text, percent, percent_spread, shown

AXIS_NAMES: Mapping[str, str] = {"input-size": "input size, px", "pictures": "training pictures"}
"""Axes that a figure calls otherwise than the command."""


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
        table[texts]  # it may be of an earlier call with other axes
        predictions = pd.read_parquet(folder / "predictions.parquet")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: no finished ablation ({error}); make one with fn2en ablate") from None
    return Ablation(about, table.fillna(dict.fromkeys(texts, "")), predictions)


def write_ablation(folder: Path) -> Path:
    """Write table.md, a figure for every axis and report.html into an ablation's folder; returns the page.

    Figures of axes that the table does not show, left by an earlier call with others, are removed.
    """
    ablation = read_ablation(folder)
    written: list[Path] = []
    write_atomic(folder / "table.md", (tables.to_markdown(text(ablation)) + "\n").encode())
    parts: list[dict[str, Any]] = []
    for axis in ablation.about["axes"]:
        rows = axis_rows(ablation, axis)
        if rows.empty:  # all its values were stopped
            continue
        figure = axis_figure(rows, axis)
        written += figures.save_figure(figure, folder / f"axis-{axis}", rows)
        label = f"Accuracy by {axis}" + (", and against its cost" if len(figure.axes) > 1 else "")
        parts.append(
            {
                "axis": axis,
                "svg": inline_svg(figure, f"axis-{len(parts)}", label),
                "label": f"{label}. {_marks(ablation, rows)}",
            }
        )
    for path in folder.glob("axis-*"):
        if path not in written and path.suffix in (".svg", ".pdf", ".png", ".csv"):
            path.unlink()
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
        variants=ablation.table["number"].nunique() - 1,
        units=_units(ablation.table),
        recipe=(folder / "recipe.toml").read_text("utf-8"),
    )
    write_atomic(folder / "report.html", page.encode("utf-8", "replace"))
    return folder / "report.html"


def _units(table: pd.DataFrame) -> str:
    """What the paired tests were over; empty for a table that does not say, or without any test."""
    if "units" not in table:
        return ""
    told = table[table["units"].notna()]
    found = {tables.units_text(int(n), unit) for n, unit in zip(told["units"], told["unit"], strict=True)}
    return " or ".join(sorted(found))


def _marks(ablation: Ablation, rows: pd.DataFrame) -> str:
    """What the marks and bars of an axis's figure are."""
    mean = (
        "their mean over all values of the other axes that were not stopped"
        if _crossed(ablation.about)
        else "their mean"
    )
    sentence = f"Small marks are folds and seeds, the large one is {mean}."
    if rows["spread"].notna().any():
        of = "of the mean over folds, over seeds" if _over(ablation.table) == "seeds" else "over folds"
        sentence += f" The bar is one standard deviation {of}, to either side."
    return sentence


def _over(table: pd.DataFrame) -> str:
    """What the spread goes over: seeds or folds."""
    return str(table["spread_over"].dropna().iloc[0])


def _crossed(about: Mapping[str, Any]) -> bool:
    """Whether a value of an axis stands in several rows."""
    return bool(about["crossed"]) and len(about["axes"]) > 1


def text(ablation: Ablation) -> pd.DataFrame:
    """The table as text to print."""
    table, axes = ablation.table, list(ablation.about["axes"])
    over = _over(table)
    spread = table["spread"].notna().any()
    columns: dict[str, list[str]] = {
        "changed": [f"{_changed(row, axes)} [{row['number']}]" for _, row in table.iterrows()]
    }
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

    In a crossed ablation a value's row is the mean over the values of the other axes, and has no spread.

    Returns:
        Columns value, tag (the row's number in the table, a letter where it stands for several), method, accuracy,
        spread, runs (text, shares parted by spaces), pictures, parameters, multiply_adds, training_seconds.
    """
    table, crossed = ablation.table, _crossed(ablation.about)
    predictions = ablation.predictions
    right = (predictions["truth"] == predictions["predicted"]).groupby(
        [predictions["method"], predictions["seed"], predictions["fold"]]
    )
    runs: Any = right.mean()
    table = table[table["stopped"] == ""]
    kept = table[table[f"axis {axis}"] != ""]
    if not crossed:
        kept = pd.concat([_base_row(ablation, axis, kept), kept])
    rows = []
    letters = dict(zip(pd.unique(kept[f"axis {axis}"]), ascii_lowercase, strict=False))
    for (value, method), part in kept.groupby([f"axis {axis}", "method"], sort=False):
        names = [f"{n} {method}" for n in part["number"]]
        each = [float(a) for name in names for a in runs[name]]
        rows.append(
            {
                "value": value,
                "tag": letters.get(value, "") if crossed else str(part["number"].iloc[0]),
                "method": method,
                "accuracy": part["accuracy"].mean(),
                "spread": np.nan if crossed else part["spread"].iloc[0],
                "pictures": part["pictures"].mean(),
                **{c: part[c].mean() for c in ("parameters", "multiply_adds", "training_seconds")},
                "runs": " ".join(f"{a:.5f}" for a in each),
            }
        )
    found = pd.DataFrame(rows)
    numbers = pd.to_numeric(found["value"], errors="coerce") if len(found) else pd.Series(dtype=float)
    if len(found) and numbers.notna().all():
        return found.iloc[np.argsort(numbers.to_numpy(), kind="stable")].reset_index(drop=True)
    return found


def _base_row(ablation: Ablation, axis: str, others: pd.DataFrame) -> pd.DataFrame:
    """The recipe as it is, under its own value of the axis; none where another row of the axis is the same training."""
    base = ablation.table[(ablation.table["number"] == 0) & (ablation.table["stopped"] == "")]
    base = base[~base["folder"].isin(others["folder"])]
    if base.empty:
        return base
    own = _own_value(ablation.about, axis, base)
    if own in set(others[f"axis {axis}"]):  # such as a file that is named as a preset
        own = f"{own} (as given)"
    return base.assign(**{f"axis {axis}": own})


def _own_value(about: Mapping[str, Any], axis: str, base: pd.DataFrame) -> str:
    from facenet2expnet.experiment.variants import FIELDS, PICTURES, RECIPE

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

    Small marks are folds and seeds, the large one is their mean, with the spread to either side where there is one.
    The cost is the multiply-adds of a picture where they differ, else the time of the method's own stages, without
    the fine-tuned face net and the teacher's views, which variants share. A cost that differs by less than a tenth
    within every method is not drawn.

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
    cost, cost_name = _cost(rows)
    by_method = cost.groupby(rows["method"])
    costs = bool((by_method.max() > 1.1 * by_method.min()).any())
    with figures.style():
        figure = figures.new_figure(8.6 if costs else 5.2, max(height, 2.6))
        panels = figure.subplots(1, 2, width_ratios=(1.15, 1)) if costs else [figure.subplots()]
        (_draw_numbers if numeric else _draw_names)(panels[0], rows, looks, AXIS_NAMES.get(axis, axis))
        if costs:
            _draw_cost(panels[1], rows.assign(cost=cost), looks, cost_name, joined=numeric)
        if len(methods) > 1:
            handles = figures.method_handles(looks, {name: shown(name) for name in methods}, line=numeric)
            figure.legend(handles=handles, loc="outside upper center", ncols=min(len(looks), 4))
    return figure


def _cost(rows: pd.DataFrame) -> tuple[pd.Series, str]:
    """What a row costs, and how that is called."""
    adds = rows["multiply_adds"]
    if rows["method"].nunique() == 1 and adds.max() > 1.02 * adds.min():
        return adds / 1e6, "multiply-adds a picture, M"
    return rows["training_seconds"] / 60, "its own stages, minutes"


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
    tags = rows.drop_duplicates("value")["tag"]
    names = figures.short_names([value or "none" for value in values], 60)
    labels = [fill(f"{name} [{tag}]", 32) for name, tag in zip(names, tags, strict=True)]
    axes.set_yticks(range(len(values)), labels=labels)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set(xlabel="accuracy, %", title=figures.short(axis, 40))
    figures.percent_axis(axes, "x")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_cost(
    axes: Axes, rows: pd.DataFrame, looks: Mapping[str, figures.Mark], name: str, *, joined: bool
) -> None:
    """Accuracy against the column cost. `joined` values follow on each other; then only the ends are labelled."""
    for method, part in rows.groupby("method", sort=False):
        mark = looks[str(method)]
        axes.plot(
            part["cost"], part["accuracy"], color=mark.colour, marker=mark.marker, markersize=6.5,
            markeredgecolor="white", linestyle=mark.line if joined else "none",
        )  # fmt: skip
        for _, row in (part.iloc[[0, -1]] if joined else part).iterrows():
            label = f"{float(row['value']):,g}" if joined else f"[{row['tag']}]"
            place = (row["cost"], row["accuracy"])
            axes.annotate(label, place, (4, 3), textcoords="offset points", fontsize=7.5)
    cost = rows["cost"]
    if cost.min() > 0 and cost.max() / cost.min() > 10:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel=name, ylabel="accuracy, %")
    axes.margins(0.12)
    figures.percent_axis(axes, "y")
    axes.grid()
