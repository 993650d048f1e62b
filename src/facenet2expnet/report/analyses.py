"""The results that `fn2en analyse` saved in a run folder, for the report."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from facenet2expnet.report.tables import as_text

FOLDER = "analyses"
ORDER = ("neurons", "mean-faces", "deepdraw", "saliency", "features", "stage1")
"""The report has a section of its own for confusion matrices."""


@dataclass(frozen=True)
class Analysis:
    """A title, a summary, figures as data URIs, and the table as text, or None if it is missing."""

    title: str
    summary: str
    pictures: list[str]
    table: pd.DataFrame | None


def read_analyses(run: Path, unread: list[str]) -> list[Analysis]:
    """The analyses in a run folder, in the paper's order; none if there are none.

    Args:
        run: the folder.
        unread: gets one sentence for each analysis that can't be read.
    """
    found = []
    texts = [path for name in ORDER for path in sorted((run / FOLDER).glob(f"{name}*.txt"))]
    for text in texts:
        figure, table = text.with_suffix(".svg"), text.with_name(f"{text.stem}-table.csv")
        try:
            title, _, summary = text.read_text(encoding="utf-8").partition("\n")
            images = [base64.b64encode(figure.read_bytes()).decode()] if figure.is_file() else []
            rows = as_text(pd.read_csv(table)) if table.is_file() else None
        except (OSError, ValueError) as error:
            unread.append(f"{text.relative_to(run)} and its files can't be read: {str(error).splitlines()[0]}")
        else:
            uris = [f"data:image/svg+xml;base64,{image}" for image in images]
            found.append(Analysis(title, summary.strip(), uris, rows))
    return found
