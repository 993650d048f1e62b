"""The result of an analysis: a summary, a table, a figure, and the numbers that the figure shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facenet2expnet.files import write_atomic
from facenet2expnet.report.figures import QUIET, new_figure, save_figure, short, style


@dataclass(frozen=True, eq=False)
class AnalysisResult:
    """The result of one analysis."""

    name: str  # start of its file names
    title: str
    summary: str  # in plain sentences
    table: pd.DataFrame
    figure: Figure
    data: pd.DataFrame  # the numbers that the figure shows
    more_tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg, .pdf and .png, NAME.csv (the figure's numbers), NAME-table.csv, NAME.txt, and further tables.

        NAME.txt holds the title in its first line and the summary below; the report reads both.
        """
        written = save_figure(self.figure, folder / self.name, self.data)
        texts = {f"{self.name}.txt": f"{self.title}\n{self.summary}\n"}
        for suffix, table in {"table": self.table, **self.more_tables}.items():
            texts[f"{self.name}-{suffix}.csv"] = table.to_csv(index=False)
        for name, text in texts.items():
            write_atomic(folder / name, text.encode("utf-8"))
        return written + [folder / name for name in texts]


@style()
def image_grid(lines: Sequence[Sequence[tuple[np.ndarray, str, str] | None]], names: Sequence[str] = ()) -> Figure:
    """Images in rows and columns.

    Args:
        lines: rows of equal length, of an RGB image with the text above and below it, or None for an empty place.
        names: of the rows.
    """
    heights = [1.65 if any(cell and cell[2] for cell in line) else 1.35 for line in lines]
    figure = new_figure(1.3 * len(lines[0]) + 0.5, sum(heights) + 0.25)
    grid = figure.subplots(len(lines), len(lines[0]), squeeze=False)
    for axes, cell in zip(grid.flat, (cell for line in lines for cell in line), strict=True):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if cell is not None:
            image, above, below = cell
            axes.imshow(image, interpolation="bilinear")
            axes.set_title(short(above, 20), fontsize=8.5, loc="center", pad=3)
            axes.set_xlabel(below, fontsize=7.5, color=QUIET)
    for axes, name in zip(grid[:, 0], names, strict=False):
        axes.set_ylabel(short(name, 22), fontsize=9)
    return figure
