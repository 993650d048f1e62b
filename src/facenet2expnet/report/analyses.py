"""The results that `fn2en analyse` saved in a run folder, for the report."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

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
        table = text.with_name(f"{text.stem}-table.csv")
        figures = [text.with_suffix(".svg"), text.with_name(f"{text.stem}-pictures.svg")]
        try:
            title, _, summary = text.read_text(encoding="utf-8").partition("\n")
            pictures = [_data_uri(figure) for figure in figures if figure.is_file()]
            rows = readable_table(pd.read_csv(table)) if table.is_file() else None
        except (OSError, ValueError) as error:
            unread.append(
                f"{text.relative_to(run)} and its files can't be read: {str(error).splitlines()[0]}"
            )
        else:
            found.append(Analysis(title, summary.strip(), pictures, rows))
    return found


def readable_table(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text: three decimals, thousands, signed changes, a dash for NaN."""
    text = {
        str(name).replace("_", " "): [_text(value, str(name)) for value in column]
        for name, column in table.items()
    }
    return pd.DataFrame(text).astype(object)


def _data_uri(picture: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"


def _text(value: object, column: str) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}" if np.isfinite(value) else "–"
    if isinstance(value, int | np.integer):
        return f"{value:+,}" if column.endswith("change") else f"{value:,}"
    return str(value)
