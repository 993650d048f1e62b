"""Figures in one style: safe for the colour-blind, readable in greyscale, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from facenet2expnet.files import write_atomic
from facenet2expnet.report.tables import display_name, is_number, readable

INK, QUIET, RULE = "#1a1a1a", "#6b6b6b", "#d9d9d9"

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "facenet2expnet",
}
"""Matplotlib settings of every figure; `text.parse_math` is off because class names may contain a dollar sign."""

_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)
_METADATA: Mapping[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
LARGE_SVG = 400_000  # bytes

LOOKS: Mapping[str, dict[str, Any]] = {
    "scratch": {"color": "#e08a00", "linestyle": (0, (1.2, 1.2)), "marker": "s"},
    "fine-tune": {"color": "#009e73", "linestyle": (0, (5, 2)), "marker": "^"},
    "fn2en": {"color": "#0b4f8a", "linestyle": "-", "marker": "o"},
}
"""Colour, line and marker of each method."""


def short(name: object, length: int = 24) -> str:
    """A readable name of at most `length` characters; a longer one loses its middle."""
    text, start = readable(name), length // 2
    return text if len(text) <= length else text[:start] + "…" + text[len(text) - (length - 1 - start) :]


def short_names(names: Sequence[str], length: int = 24) -> list[str]:
    """Short names, numbered if two of them would be the same."""
    labels = [short(name, length) for name in names]
    if len(set(labels)) == len(set(names)):
        return labels
    return [f"{short(name, length - 4)} {place}" for place, name in enumerate(names, 1)]


@contextmanager
def style() -> Iterator[None]:
    """Apply `STYLE` and silence warnings about letters that no font here has; also a decorator."""
    installed = set(font_manager.get_font_names())  # matplotlib warns about fonts that are not installed
    fonts = [name for name in _FONTS if name in installed] or ["sans-serif"]
    settings: Any = {**STYLE, "font.family": fonts}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that needs no display and belongs to no global state."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


@style()
def draw(figure: Figure, kind: str) -> bytes:
    """The figure as "svg", "pdf" or "png" bytes; fonts are inside, and the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


def data_uri(figure: Figure) -> str:
    """The figure as the source of an <img>: SVG, or PNG if the SVG is larger than `LARGE_SVG`."""
    kind, image = "svg+xml", draw(figure, "svg")
    if len(image) > LARGE_SVG:
        kind, image = "png", draw(figure, "png")
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def save_figure(figure: Figure, path: Path, data: pd.DataFrame | None = None) -> list[Path]:
    """Write a figure as `path`.svg, .pdf and .png, and the numbers that it shows as .csv; return the files."""
    written = [path.with_name(f"{path.name}.{kind}") for kind in _METADATA]
    for file in written:
        write_atomic(file, draw(figure, file.suffix[1:]))
    if data is not None:
        written.append(path.with_name(path.name + ".csv"))
        write_atomic(written[-1], data.to_csv(index=False).encode("utf-8"))
    return written


def percent_axis(axis: Axis) -> None:
    """Show the shares 0..1 of an axis as percent."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value * 100:.4g}")


def method_legend(figure: Figure, methods: Iterable[str]) -> None:
    """Write the methods above the figure."""
    handles = [Line2D([], [], **LOOKS[name], label=display_name(name)) for name in dict.fromkeys(methods)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


SHADES: Any = {"cmap": "Blues", "vmin": 0, "vmax": 1.12, "edgecolors": "white", "linewidth": 1.2}
"""Colours of shares 0..1 in a matrix; 1 is not the darkest blue, so that high shares stay distinct."""


def ink_on(share: float) -> str:
    """The colour of text on a cell of `SHADES`, the one with the higher contrast."""
    return "white" if share > 0.77 else INK


@style()
def confusion_panels(counts: Mapping[str, npt.ArrayLike], classes: Sequence[str], columns: int = 3) -> Figure:
    """Confusion matrices side by side, each row as shares of its true class; darker is higher.

    Up to 12 classes a cell shows percent and count, up to 20 percent, above that only the colour. A row without
    pictures is hatched.

    Args:
        counts: title -> (K, K) counts, rows are the truth, columns the prediction.
        classes: K names.
        columns: at most this many in a line.
    Source: FN2EN, figures 6 to 9.
    """
    k = len(classes)
    cell = 0.62 if k <= 8 else 0.52 if k <= 12 else 0.38 if k <= 20 else 0.24
    side = max(k * cell, 1.6) + 0.5 + 0.075 * max(map(len, short_names(classes)))
    figure, grid = panels(len(counts), columns, side + 0.3, side)
    for axes, (title, matrix) in zip(grid, counts.items(), strict=True):
        _draw_confusion(axes, np.asarray(matrix), classes)
        axes.set_title(short(title, 60))
    return figure


def panels(count: int, columns: int, width_in: float, height_in: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of this size, at most `columns` in a line."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = new_figure(width_in * columns, height_in * lines)
    return figure, [figure.add_subplot(lines, columns, place) for place in range(1, count + 1)]


def _draw_confusion(axes: Axes, matrix: np.ndarray, classes: Sequence[str]) -> None:
    k, totals = len(classes), matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros((k, k)), where=totals > 0)
    edges = np.arange(k + 1) - 0.5
    axes.pcolormesh(edges, edges, shares, **SHADES)
    axes.set(aspect="equal", xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), xlabel="predicted", ylabel="truth")
    names = short_names(classes)
    axes.set_xticks(range(k), labels=names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), labels=names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row in np.flatnonzero(totals[:, 0] == 0):
        axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor=RULE, hatch="///", linewidth=0)
    for row, column in np.ndindex(k, k) if k <= 20 else ():
        if not totals[row, 0] or (not matrix[row, column] and row != column):
            continue
        look: Any = {"ha": "center", "va": "center", "color": ink_on(float(shares[row, column]))}
        up, size = (0.13, 9) if k <= 12 else (0, 7.5)
        axes.text(column, row - up, f"{shares[row, column] * 100:.0f}", fontsize=size, **look)
        if k <= 12:
            axes.text(column, row + 0.24, f"{matrix[row, column]:,}", fontsize=6.5, **look)


STAGES: Mapping[str, str] = {
    "fine_tune": "Stage 0: fine-tune the face net",
    "stage1": "Stage 1: distil its features",
    "stage2": "Stage 2: classify",
    "scratch": "From scratch (BN)",
}
"""Titles of the stages, in the order of the figure."""

_CURVES = {
    "loss": "training loss",
    "val_loss": "validation loss",
    "accuracy": "training accuracy, %",
    "r2": "training R²",
}


@style()
def curves_figure(history: pd.DataFrame) -> Figure:
    """Learning curves: one panel per stage and quantity, one line per method.

    The line is the mean over folds and seeds, the band their range. A loss that falls by more than a factor of 50 has
    a log scale.

    Args:
        history: columns method, stage, epoch, loss, val_loss, accuracy, r2 (NaN where not measured).
    Raises:
        ValueError: If there is nothing to show.
    """
    stages = {str(name): part for name, part in history.groupby("stage")}
    quantities = [name for name in _CURVES if history[name].notna().any()]
    order = [name for name in STAGES if name in stages]
    shown = [(stage, name) for stage in order for name in quantities if stages[stage][name].notna().any()]
    if not shown:
        raise ValueError(f"no curve of one of the stages {', '.join(STAGES)}")
    figure, grid = panels(len(shown), 3 if "val_loss" in quantities else 2, 4, 2.3)
    for axes, (stage, name) in zip(grid, shown, strict=True):
        _draw_curves(axes, stages[stage], name)
        axes.set(xlabel="epoch", ylabel=_CURVES[name], title=STAGES[stage])
    method_legend(figure, history["method"])
    return figure


def _draw_curves(axes: Axes, part: pd.DataFrame, quantity: str) -> None:
    for method, values in part.dropna(subset=[quantity]).groupby("method"):
        look, curve = LOOKS[str(method)], values.groupby("epoch")[quantity].agg(["mean", "min", "max"])
        axes.fill_between(curve.index, curve["min"], curve["max"], color=look["color"], alpha=0.15, lw=0)
        axes.plot(curve["mean"], **look, markersize=4, markevery=max(1, len(curve) // 8))
    positive = part[quantity][part[quantity] > 0]
    if quantity.endswith("loss") and len(positive) and positive.max() > 50 * positive.min():
        axes.set_yscale("log")
    if quantity == "accuracy":
        percent_axis(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y")


@style()
def accuracy_rows(rows: pd.DataFrame, *, chance: float | None = None, title: str = "") -> Figure:
    """Accuracies on horizontal lines, one line per label.

    Small marks are the single results, the large mark is their mean with one standard deviation to either side. A
    hollow diamond is the paper's accuracy.

    Args:
        rows: columns label, method, accuracy, std (NaN for none), runs (a list of accuracies), paper (may be missing).
        chance: accuracy of always predicting the largest class, drawn as a dashed line.
        title: above the figure.
    """
    labels = list(dict.fromkeys(rows["label"]))
    figure = new_figure(7.4, 0.4 * max(len(rows), 1.2 * len(labels)) + 1.2)
    axes = figure.add_subplot(title=short(title, 60))
    if chance is not None:
        axes.axvline(chance, color=QUIET, linestyle="--", linewidth=1)
    for label, part in rows.groupby("label", sort=False):
        middle = labels.index(label) - 0.13 * (len(part) - 1)
        for place, row in enumerate(part.to_dict("records")):
            y, look = middle + 0.26 * place, {**LOOKS[row["method"]], "linestyle": "none"}
            width = 0.2 / len(part) if len(row["runs"]) > 1 else 0
            spread = np.linspace(y - width, y + width, len(row["runs"]))
            axes.plot(row["runs"], spread, **look, markersize=3.5, alpha=0.45)
            if is_number(row["std"]):
                axes.errorbar(row["accuracy"], y, xerr=row["std"], ecolor=look["color"], elinewidth=2.2)
            axes.plot(row["accuracy"], y, **look, markersize=8, markeredgecolor="white")
            if is_number(row.get("paper")):
                axes.plot(row["paper"], y, "D", mfc="none", mec=INK, markersize=7.5, zorder=3)
    axes.set_yticks(range(len(labels)), labels=short_names(labels, 40))
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel="accuracy, %")
    middle_x, half_width = np.mean(axes.get_xlim()), np.ptp(axes.get_xlim()) / 2
    axes.set_xlim(middle_x - max(half_width, 0.01), middle_x + max(half_width, 0.01))  # not a magnifier of rounding
    percent_axis(axes.xaxis)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if rows["label"].duplicated().any():
        method_legend(figure, rows["method"])
    return figure


@style()
def accuracy_curves(rows: pd.DataFrame, name: str) -> Figure:
    """Accuracy against a number, such as training pictures: one line per method.

    Small marks are the single results, the line joins their means, a bar is one standard deviation to either side.

    Args:
        rows: columns value, method, accuracy, std (NaN for none), runs (a list of accuracies).
        name: of the number.
    """
    values = np.unique(rows["value"])
    figure = new_figure(6.2, 3.4)
    axes = figure.add_subplot(xlabel=name, ylabel="accuracy, %")
    for method, part in rows.groupby("method"):
        look, runs = LOOKS[str(method)], part.explode("runs")
        std = part["std"].fillna(0)
        axes.errorbar(part["value"], part["accuracy"], std, **look, markersize=6, mec="white")
        axes.plot(runs["value"], runs["runs"], **{**look, "linestyle": "none"}, ms=3, alpha=0.4)
    if values.min() > 0 and values.max() / values.min() >= 4:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, labels=[f"{value:,g}" for value in values])
    percent_axis(axes.yaxis)
    axes.grid(axis="y")
    if rows["method"].nunique() > 1:
        method_legend(figure, rows["method"])
    return figure


@style()
def reliability_figure(bins: pd.DataFrame) -> Figure:
    """Reliability diagrams: accuracy against confidence, one panel per method, the diagonal dashed.

    Args:
        bins: columns method, pictures, confidence, accuracy; the area of a mark grows with the pictures of its bin.
    """
    bins = bins[bins["pictures"] > 0].astype({"confidence": float, "accuracy": float})
    methods = bins["method"].unique()
    figure, grid = panels(len(methods), 3, 2.65, 2.9)
    for axes, name in zip(grid, methods, strict=True):
        part, colour = bins[bins["method"] == name], LOOKS[name]["color"]
        x, y, area = part["confidence"], part["accuracy"], part["pictures"] / part["pictures"].sum()
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
        axes.plot(x, y, color=colour, linewidth=1.2)
        axes.scatter(x, y, s=12 + 260 * area, color=colour, alpha=0.6, linewidths=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence, %", ylabel="accuracy, %")
        axes.set(box_aspect=1, title=display_name(name))
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.grid()
    return figure
