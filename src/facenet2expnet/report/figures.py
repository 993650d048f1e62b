"""Figures in one style: safe for the colour-blind, readable in greyscale, with their fonts inside."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from facenet2expnet.files import write_atomic

INK = "#1a1a1a"
QUIET = "#6b6b6b"
RULE = "#d9d9d9"

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "facenet2expnet",
}
"""Matplotlib settings of every figure; `text.parse_math` is off since class names may hold a dollar sign."""

_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Arial Unicode MS",
)

LABEL_LENGTH = 24
"""Longer names are shortened in the middle in figures; tables have them whole."""


@dataclass(frozen=True)
class Mark:
    """How a method looks in every figure: colour, line and marker each tell it apart alone."""

    colour: str
    line: Any
    marker: str


_KNOWN_MARKS = {
    "scratch": Mark("#e08a00", (0, (1.2, 1.2)), "s"),
    "fine-tune": Mark("#009e73", (0, (5, 2)), "^"),
    "fn2en": Mark("#0b4f8a", "-", "o"),
}

_OTHER_MARKS = (
    Mark("#b5408a", (0, (6, 1.5, 1, 1.5)), "D"),
    Mark("#56b4e9", (0, (3, 1, 1, 1, 1, 1)), "v"),
    Mark("#7a3b00", "-", "P"),
    Mark("#8c8c00", (0, (2, 2)), "X"),
    Mark("#444444", (0, (8, 2)), "*"),
)


def marks(methods: Sequence[str]) -> dict[str, Mark]:
    """Each method's look; the paper's three always have theirs, others take the next free one in turn."""
    others = [name for name in methods if name not in _KNOWN_MARKS]
    return {
        name: _KNOWN_MARKS.get(name) or _OTHER_MARKS[others.index(name) % len(_OTHER_MARKS)]
        for name in methods
    }


def readable(name: object) -> str:
    """A name fit for a figure or page: control characters become the replacement sign."""
    text = str(name).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "�" for c in text)


def short(name: object, length: int = LABEL_LENGTH, head: float = 0.5) -> str:
    """A readable name of at most `length` characters; a longer one keeps its start, the share `head`, and end."""
    text = readable(name)
    if len(text) <= length:
        return text
    start = round((length - 1) * head)
    return text[:start] + "…" + text[len(text) - (length - 1 - start) :]


def short_names(names: Sequence[str], length: int = LABEL_LENGTH) -> list[str]:
    """Short names that still tell all of them apart: cut elsewhere, or numbered, where the middle is what differs."""
    for head in (0.5, 0.25, 0.75):
        labels = [short(name, length, head) for name in names]
        if len(set(labels)) == len(set(names)):
            return labels
    labels = [short(name, length) for name in names]
    twice = {label for label in labels if labels.count(label) > 1}
    return [
        f"{short(name, length - 4)} {place + 1}" if label in twice else label
        for place, (name, label) in enumerate(zip(names, labels, strict=True))
    ]


@cache
def _fonts() -> list[str]:
    """Those of our fonts that this machine has, so that matplotlib has none to complain about."""
    there = set(font_manager.get_font_names())
    return [name for name in _FONTS if name in there] or ["sans-serif"]


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within this: STYLE, and no warnings for letters that no font here has."""
    settings: Any = {**STYLE, "font.family": _fonts()}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that needs no display and belongs to no global state."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure, *, as_text: bool = False) -> str:
    """The figure as SVG text. The same figure always gives the same text.

    Args:
        figure: any of this module's figures.
        as_text: keep letters as text, for a page that brings the font along (`report.fonts`). Else they are outlines,
            so that the file looks the same on every machine; a letter that no font here has is then a box.
    """
    buffer = io.StringIO()
    with style(), matplotlib.rc_context({"svg.fonttype": "none" if as_text else "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_pdf(figure: Figure) -> bytes:
    """The figure as PDF bytes, with the letters that it uses embedded as TrueType."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(
            buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
        )
    return buffer.getvalue()


_WRITERS: Mapping[str, Callable[[Figure], bytes]] = {
    ".svg": lambda figure: to_svg(figure).encode("utf-8"),
    ".pdf": to_pdf,
    ".png": to_png,
}


def save_figure(figure: Figure, path: Path, data: pd.DataFrame | None = None) -> list[Path]:
    """Write a figure, and the numbers it shows beside it.

    Args:
        figure: any of this module's figures.
        path: ending in .svg, .pdf or .png for that format alone; anything else gets all three endings added.
        data: written as CSV under the same name.
    Returns:
        The files written, in the order .svg, .pdf, .png, .csv.
    Raises:
        UserError: If a file can't be written.
    """
    path = Path(path)
    endings, stem = list(_WRITERS), path.name
    if path.suffix.lower() in endings:
        endings, stem = [path.suffix.lower()], path.stem
    written = []
    for ending in endings:
        written.append(path.with_name(stem + ending))
        write_atomic(written[-1], _WRITERS[ending](figure))
    if data is not None:
        written.append(path.with_name(stem + ".csv"))
        write_atomic(written[-1], data.to_csv(index=False).encode("utf-8"))
    return written


def percent_axis(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value * 100:.4g}")


def name_ticks(axes: Axes, which: str, names: Sequence[str], angle: float = 0) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(range(len(names))), labels=short_names(names))
    if angle:
        for label in axis.get_ticklabels():
            label.set(rotation=angle, ha="right", rotation_mode="anchor")


def confusion_figure(counts: npt.ArrayLike, classes: Sequence[str], title: str = "") -> Figure:
    """A confusion matrix, each row a share of its truth's pictures: darker is higher.

    Up to 12 classes a cell shows the share in percent and the count below, up to 20 the share, above that
    only the colour. A row without pictures is hatched.

    Args:
        counts: (K, K) counts, rows truth, columns predicted.
        classes: K names.
        title: above the matrix.
    Source: FN2EN, figures 6 to 9.
    """
    return confusion_panels({title: counts}, classes)


def confusion_panels(counts: Mapping[str, npt.ArrayLike], classes: Sequence[str], columns: int = 3) -> Figure:
    """Confusion matrices of several models side by side, each as in `confusion_figure`.

    Args:
        counts: title -> (K, K) counts, rows truth, columns predicted.
        classes: K names.
        columns: at most so many in a line.
    Source: FN2EN, figures 6 to 9.
    """
    k = len(classes)
    matrices = {title: np.asarray(values, dtype=np.int64) for title, values in counts.items()}
    for matrix in matrices.values():
        if matrix.shape != (k, k):
            raise ValueError(f"counts: expected shape ({k}, {k}) for {k} classes, got {matrix.shape}")
    longest = max(map(len, short_names(classes)))
    cell = 0.62 if k <= 8 else 0.52 if k <= 12 else 0.38 if k <= 20 else 0.24
    side = max(k * cell, 1.6) + 0.5 + 0.075 * longest
    columns = min(columns, len(matrices))
    lines = -(-len(matrices) // columns)
    with style():
        figure = new_figure((side + 0.3) * columns, side * lines)
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(matrices) :]:
            axes.set_visible(False)
        for axes, (title, matrix) in zip(grid.flat, matrices.items(), strict=False):
            _draw_confusion(axes, matrix, classes, title)
    return figure


SHADES: Any = {"cmap": "Blues", "vmin": 0, "vmax": 1.12, "edgecolors": "white", "linewidth": 1.2}
"""Of shares 0..1 in a matrix; 1 is not the darkest blue, so that the step to it can be seen."""


def ink_on(share: float) -> str:
    """The colour of letters on a cell of `SHADES`, whichever of the two stands out more."""
    return "white" if share > 0.77 else INK


def _draw_confusion(axes: Axes, matrix: np.ndarray, classes: Sequence[str], title: str) -> None:
    k = len(classes)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros((k, k)), where=totals > 0)
    longest = max(map(len, short_names(classes)))
    edges = np.arange(k + 1) - 0.5
    axes.pcolormesh(edges, edges, shares, **SHADES)
    axes.set(aspect="equal", xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
    for row in range(k):
        if not totals[row, 0]:
            axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor=RULE, hatch="///", linewidth=0)
    name_ticks(axes, "x", classes, angle=45 if longest > 4 else 0)
    name_ticks(axes, "y", classes)
    axes.set(xlabel="predicted", ylabel="truth")
    if title:
        axes.set_title(short(title, 60))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if k <= 20:
        _write_cells(axes, matrix, shares, totals)


def _write_cells(axes: Axes, matrix: np.ndarray, shares: np.ndarray, totals: np.ndarray) -> None:
    """The numbers in the cells of a confusion matrix."""
    with_counts = len(matrix) <= 12
    for row, column in np.ndindex(*matrix.shape):
        if not totals[row, 0] or (not matrix[row, column] and row != column):
            continue
        colour = ink_on(float(shares[row, column]))
        up = -0.13 if with_counts else 0.0
        share = f"{shares[row, column] * 100:.0f}"
        size = 9 if with_counts else 7.5
        axes.text(column, row + up, share, ha="center", va="center", color=colour, fontsize=size)
        if with_counts:
            count = f"{matrix[row, column]:,}"
            axes.text(column, row + 0.24, count, ha="center", va="center", color=colour, fontsize=6.5)


def method_handles(
    looks: Mapping[str, Mark], names: Mapping[str, str] | None, line: bool = True
) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=mark.colour,
            linestyle=mark.line if line else "none",
            marker="" if line else mark.marker,
            label=short((names or {}).get(name, name)),
        )
        for name, mark in looks.items()
    ]


STAGES: Mapping[str, str] = {
    "fine_tune": "Stage 0: fine-tune the face net",
    "stage1": "Stage 1: regress its features",
    "stage2": "Stage 2: classify",
    "scratch": "From scratch (BN)",
}
"""What a reader sees for a stage, in the order of the figure; other stages follow under their own names."""

_CURVES = {"loss": "loss", "accuracy": "training accuracy, %", "r2": "R²", "inner": "loss on the inner part"}


def curves_figure(history: pd.DataFrame, names: Mapping[str, str] | None = None) -> Figure:
    """Learning curves on the training part: one row a stage, one column a quantity, one line a method.

    The line is the mean over folds and seeds, the band goes from the lowest to the highest of them. A loss
    that falls by more than a factor of 50 is drawn on a log scale.

    Args:
        history: columns method, stage, epoch, and any of loss, accuracy, r2, inner (NaN where not meant).
        names: method -> what a reader sees.
    Raises:
        ValueError: If there is nothing to draw.
    """
    stages = [str(stage) for stage in pd.unique(history["stage"])] if len(history) else []
    methods = [str(name) for name in pd.unique(history["method"])] if len(history) else []
    rows: dict[str, list[str]] = {}
    known = [stage for stage in STAGES if stage in stages]
    for stage in known + [stage for stage in stages if stage not in STAGES]:
        part = history[history["stage"].astype(str) == stage]
        rows[stage] = [q for q in _CURVES if q in part and part[q].notna().any()]
    rows = {stage: quantities for stage, quantities in rows.items() if quantities}
    if not rows:
        raise ValueError("history: expected at least one epoch with a loss, an accuracy or an r2, got none")
    looks = marks(methods)
    columns = max(map(len, rows.values()))
    with style():
        figure = new_figure(3.9 * columns + 0.4, 2.15 * len(rows) + 0.5)
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes_row, (stage, quantities) in zip(grid, rows.items(), strict=True):
            part = history[history["stage"].astype(str) == stage]
            for axes in axes_row[len(quantities) :]:
                axes.set_visible(False)
            for axes, quantity in zip(axes_row, quantities, strict=False):
                _draw_curves(axes, part, quantity, looks)
                axes.set(xlabel="epoch", ylabel=_CURVES[quantity])
            axes_row[0].set_title(short(STAGES.get(stage, stage), 40))
        figure.legend(
            handles=method_handles(looks, names), loc="outside upper center", ncols=min(len(looks), 4)
        )
    return figure


def _draw_curves(axes: Axes, part: pd.DataFrame, quantity: str, looks: Mapping[str, Mark]) -> None:
    for name, mark in looks.items():
        values = part[(part["method"].astype(str) == name) & part[quantity].notna()]
        if values.empty:
            continue
        curve = values.groupby("epoch")[quantity].agg(["mean", "min", "max"])
        epochs = curve.index.to_numpy()
        axes.fill_between(epochs, curve["min"], curve["max"], color=mark.colour, alpha=0.15, linewidth=0)
        marker = mark.marker if len(curve) == 1 else ""
        axes.plot(epochs, curve["mean"], marker=marker, color=mark.colour, linestyle=mark.line, markersize=4)
    positive = part[quantity][part[quantity] > 0]
    if quantity == "loss" and len(positive) and positive.max() > 50 * positive.min():
        axes.set_yscale("log")
    if quantity == "accuracy":
        percent_axis(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")


def folds_figure(
    folds: Mapping[str, Sequence[float]],
    paper: Mapping[str, float] | None = None,
    chance: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Accuracy of every fold, one row a method.

    Small marks are folds, the large one is their mean with one sample standard deviation to either side. A
    hollow diamond is the paper's number, the dashed line what always naming the largest class would reach.

    Args:
        folds: method -> accuracy of every fold, 0..1.
        paper: method -> the paper's accuracy on the same dataset.
        chance: share of the largest class.
        names: method -> what a reader sees.
    """
    looks = marks(list(folds))
    paper = paper or {}
    with style():
        figure = new_figure(7.4, 0.55 * len(folds) + 1.25)
        axes = figure.add_subplot()
        if chance is not None:
            axes.axvline(chance, color=QUIET, linestyle=(0, (4, 3)), linewidth=1)
        for row, (name, values) in enumerate(folds.items()):
            mark, mean = looks[name], float(np.mean(values))
            spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(len(values))
            axes.plot(values, row + spread, mark.marker, color=mark.colour, markersize=3.5, alpha=0.45)
            if len(values) > 1:
                width = float(np.std(values, ddof=1))
                axes.plot([mean - width, mean + width], [row, row], color=mark.colour, linewidth=2.2)
            axes.plot(mean, row, mark.marker, color=mark.colour, markersize=8.5, markeredgecolor="white")
            if name in paper:
                axes.plot(
                    paper[name],
                    row,
                    "D",
                    markerfacecolor="none",
                    markeredgecolor=INK,
                    markersize=7.5,
                    zorder=3,
                )
        name_ticks(axes, "y", [(names or {}).get(name, name) for name in folds])
        axes.set_ylim(len(folds) - 0.4, -0.6)
        axes.set_xlabel("accuracy, %")
        percent_axis(axes, "x")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure


def subjects_figure(
    subjects: Mapping[str, Mapping[str, float]], names: Mapping[str, str] | None = None
) -> Figure:
    """Accuracy of every subject under every method; subjects are sorted by the last method's accuracy.

    Args:
        subjects: method -> subject -> accuracy, 0..1.
        names: method -> what a reader sees.
    """
    looks = marks(list(subjects))
    last = subjects[list(subjects)[-1]]
    order = sorted(last, key=lambda name: (last[name], name))
    with style():
        figure = new_figure(7.4, 2.9)
        axes = figure.add_subplot()
        for name, mark in looks.items():
            values = [subjects[name].get(subject, np.nan) for subject in order]
            size = 5 if len(order) <= 60 else 3
            axes.plot(values, mark.marker, color=mark.colour, markersize=size, alpha=0.75, clip_on=False)
        if len(order) <= 30:
            name_ticks(axes, "x", order, angle=45 if max(map(len, order)) > 3 else 0)
        axes.set(ylabel="accuracy, %", ylim=(-0.02, 1.02))
        axes.set_xlabel(f"{len(order)} subjects, sorted")
        percent_axis(axes, "y")
        axes.grid(axis="y")
        handles = method_handles(looks, names, line=False)
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(looks), 4))
    return figure


def reliability_figure(
    bins: Mapping[str, Sequence[Mapping[str, Any]]], names: Mapping[str, str] | None = None
) -> Figure:
    """Accuracy against confidence, one panel a method; on the diagonal a probability means what it says.

    A mark's area grows with the number of pictures in its bin.

    Args:
        bins: method -> bins with the keys of `metrics.ReliabilityBin`; None or NaN where a bin is empty.
        names: method -> what a reader sees.
    """
    looks = marks(list(bins))
    columns = min(len(bins), 3)
    rows = -(-len(bins) // columns)
    with style():
        figure = new_figure(2.55 * columns + 0.3, 2.75 * rows + 0.35)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(bins) :]:
            axes.set_visible(False)
        for axes, (name, parts) in zip(grid.flat, bins.items(), strict=False):
            filled = [part for part in parts if part["pictures"]]
            total = sum(part["pictures"] for part in filled)
            x, y = [part["confidence"] for part in filled], [part["accuracy"] for part in filled]
            area = [12 + 260 * part["pictures"] / total for part in filled]
            axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot(x, y, color=looks[name].colour, linewidth=1.2)
            axes.scatter(x, y, s=area, color=looks[name].colour, alpha=0.6, linewidths=0)
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), box_aspect=1)
            axes.set_title(short((names or {}).get(name, name)))
            percent_axis(axes, "x")
            percent_axis(axes, "y")
            axes.grid()
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy, %")
        for axes in grid[-1]:
            axes.set_xlabel("confidence, %")
    return figure
