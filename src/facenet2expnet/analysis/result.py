"""What an analysis hands over: a sentence, a table, a figure and the numbers that the figure shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from facenet2expnet.files import write_atomic
from facenet2expnet.report.figures import save_figure

LARGE = 20_000
"""A further table with more rows than this is written as Parquet."""


@dataclass(frozen=True, eq=False)
class AnalysisResult:
    """One analysis.

    Attributes:
        name: of its files.
        title: for a heading.
        says: what was found, in plain sentences.
        table: the result as a reader wants it.
        figure: the picture.
        data: the numbers that the picture shows.
        more: further tables, name -> table.
        more_figures: further pictures, name -> picture.
    """

    name: str
    title: str
    says: str
    table: pd.DataFrame
    figure: Figure
    data: pd.DataFrame
    more: dict[str, pd.DataFrame] = field(default_factory=dict)
    more_figures: dict[str, Figure] = field(default_factory=dict)

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg, NAME.png, NAME.csv (the numbers of the picture), NAME-table.csv, NAME.txt and further tables.

        NAME.txt holds the title in its first line and the sentences below; the report reads both.

        Raises:
            UserError: If a file can't be written.
        """
        written = save_figure(self.figure, folder / self.name, self.data)
        for suffix, figure in self.more_figures.items():
            written += save_figure(figure, folder / f"{self.name}-{suffix}")
        for suffix, table in {"table": self.table, **self.more}.items():
            path = folder / f"{self.name}-{suffix}.csv"
            if len(table) > LARGE:
                path = path.with_suffix(".parquet")
                path.parent.mkdir(parents=True, exist_ok=True)
                table.to_parquet(path, index=False)
            else:
                write_atomic(path, table.to_csv(index=False).encode("utf-8"))
            written.append(path)
        written.append(folder / f"{self.name}.txt")
        write_atomic(written[-1], f"{self.title}\n{self.says}\n".encode())
        return written
