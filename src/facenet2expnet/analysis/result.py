"""The result of an analysis: a summary, a table, a figure, and the numbers that the figure shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from facenet2expnet.files import write_atomic
from facenet2expnet.report.figures import save_figure


@dataclass(frozen=True, eq=False)
class AnalysisResult:
    """One analysis.

    Attributes:
        name: start of its file names.
        title: a heading.
        summary: the result in plain sentences.
        table: the result as a table.
        figure: the result as a picture.
        data: the numbers that the figure shows.
        more_tables: further tables, by name.
        more_figures: further figures, by name.
    """

    name: str
    title: str
    summary: str
    table: pd.DataFrame
    figure: Figure
    data: pd.DataFrame
    more_tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    more_figures: dict[str, Figure] = field(default_factory=dict)

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg, .pdf and .png, NAME.csv (the figure's numbers), NAME-table.csv, NAME.txt, and further files.

        NAME.txt holds the title in its first line and the summary below; the report reads both.

        Raises:
            UserError: If a file can't be written.
        """
        written = save_figure(self.figure, folder / self.name, self.data)
        for suffix, figure in self.more_figures.items():
            written += save_figure(figure, folder / f"{self.name}-{suffix}")
        for suffix, table in {"table": self.table, **self.more_tables}.items():
            written.append(folder / f"{self.name}-{suffix}.csv")
            write_atomic(written[-1], table.to_csv(index=False).encode("utf-8"))
        written.append(folder / f"{self.name}.txt")
        write_atomic(written[-1], f"{self.title}\n{self.summary}\n".encode())
        return written
