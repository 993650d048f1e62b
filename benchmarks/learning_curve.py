"""The figure of a learning curve from the tables of ablations, accuracy against labelled pictures.

    python benchmarks/fer2013_small.py FER2013 --labels ferplus --training 4000 --manifest runs/public.csv
    fn2en ablate runs/public.csv --out runs/curve --protocol split --seeds 3 --threads 1 \
        --method scratch --method fine-tune --method fn2en \
        --vary pictures=100 --vary pictures=250 --vary pictures=500 --vary pictures=1000 --vary pictures=2000
    cp runs/curve/table.csv runs/start.csv
    fn2en ablate runs/public.csv --out runs/curve --resume --protocol split --seeds 3 --threads 1 \
        --method fn2en --set expnet.start=none --set stage1.epochs=40 \
        --vary pictures=100 --vary pictures=250 --vary pictures=500 --vary pictures=1000 --vary pictures=2000
    python benchmarks/learning_curve.py runs/start.csv "without a start"=runs/curve/table.csv \
        --out docs/images/learning-curve.webp

The unchanged recipe has all 4,000 pictures. The second ablation goes on in the first one's folder, where it finds the
fine-tuned face nets. A labelled table's rows are lines of their own, as "FN2EN, start". Bars are one standard
deviation, over seeds or, with one seed, over folds. Every table needs the columns pictures, method, accuracy and std;
--csv keeps the numbers of the figure.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from facenet2expnet.errors import UserError
from facenet2expnet.experiment.job import METHODS
from facenet2expnet.files import write_atomic
from facenet2expnet.report import figures
from facenet2expnet.report.tables import display_name

COLUMNS = ["line", "method", "pictures", "accuracy", "std"]
WITH_LABEL: Mapping[str, Any] = {"color": "#c2185b", "linestyle": "-", "marker": "D"}
"""Colour, line and marker of FN2EN in a labelled table; those of the methods are `figures.LOOKS`."""
LABEL_GAP = 0.045
"""Smallest distance of two labels, as a share of the axis."""


def read_curve(tables: Sequence[str]) -> pd.DataFrame:
    """Join table.csv files, each a path or LABEL=path, to one table with a row for each line and number of pictures.

    Raises:
        UserError: If a table lacks a column.
    """
    parts = []
    for text in tables:
        label, equals, path = text.partition("=")
        if not equals or Path(text).is_file():
            label, path = "", text
        table = pd.read_csv(path)
        if missing := sorted(set(COLUMNS[1:]) - set(table.columns)):
            raise UserError(f"{path}: lacks the column {missing[0]}; expected a table.csv of `fn2en ablate`")
        names = table["method"].map(display_name) + (f", {label}" if label else "")
        parts.append(table.assign(line=names)[COLUMNS])
    curve = pd.concat(parts, ignore_index=True).dropna(subset="accuracy")
    curve = curve.drop_duplicates(["line", "pictures"])  # the unchanged recipe's number may be asked for as well
    order = curve["method"].map(METHODS.index)
    return curve.assign(order=order).sort_values(["order", "line", "pictures"]).drop(columns="order")


def draw(curve: pd.DataFrame) -> Figure:
    """Draw the curve: a logarithmic axis of pictures, one line a method with its name at its end."""
    with figures.style():
        figure = figures.new_figure(7.0, 4.2)
        axes = figure.subplots()
        ends = {}
        for line, part in curve.groupby("line", sort=False):
            method = part["method"].iloc[0]
            look = WITH_LABEL if method == "fn2en" and line != display_name(method) else figures.LOOKS[method]
            values, bars = (100 * part[column].fillna(0).to_numpy(float) for column in ("accuracy", "std"))
            axes.errorbar(
                part["pictures"], values, bars, capsize=2.5, linewidth=1.8, elinewidth=1, markersize=5, **look
            )
            ends[line] = (float(part["pictures"].max()), float(values[-1]), look["color"])
        pictures = sorted(curve["pictures"].unique())
        axes.set_xscale("log")
        axes.set_xlim(pictures[0] * 0.9, pictures[-1] * 1.08)
        axes.xaxis.set_major_locator(FixedLocator(pictures))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y")
        axes.set_xlabel("labelled pictures to learn from")
        axes.set_title("Accuracy, %")
        low, high = axes.get_ylim()
        places = _spread([end[1] for end in ends.values()], LABEL_GAP * (high - low))
        for (line, (_, value, colour)), place in zip(ends.items(), places, strict=True):
            axes.annotate(
                line, (pictures[-1], value), (1.02, place), textcoords=("axes fraction", "data"), color=colour,
                fontweight="bold", va="center", annotation_clip=False,
            )  # fmt: skip
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG, PNG or WebP, by the ending of the path."""
    kind = path.suffix.lower().removeprefix(".")
    content = figures.draw(figure, "svg" if kind == "svg" else "png")
    if kind == "webp":
        packed = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(packed, "webp", lossless=True)
        content = packed.getvalue()
    write_atomic(path, content)


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Move values apart until neighbours differ by `gap` at least; their order and, nearly, their mean stay."""
    order = np.argsort(values, kind="stable")
    placed = np.array(values, float)[order]
    for _ in range(100):
        short = gap - np.diff(placed)
        if (short <= 1e-9).all():
            break
        push = np.clip(short, 0, None) / 2
        placed[:-1] -= push
        placed[1:] += push
    result = np.empty(len(placed))
    result[order] = placed
    return [float(value) for value in result]


def main() -> None:
    """Read the tables, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", metavar="[LABEL=]TABLE")
    parser.add_argument("--out", type=Path, default=Path("docs/images/learning-curve.webp"))
    parser.add_argument("--csv", type=Path, help="write the numbers of the figure here")
    given = parser.parse_args()
    curve = read_curve(given.tables)
    if given.csv:
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        curve.to_csv(given.csv, index=False)
    save(draw(curve), given.out)


if __name__ == "__main__":
    main()
