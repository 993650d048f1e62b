"""What `fn2en analyse` left in a run folder, for the report: a title, sentences, a picture and a table each."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = "analyses"
ORDER = ("neurons", "mean-faces", "deepdraw", "saliency", "features", "stage1")
"""The report's own confusion matrices stand in a section of theirs."""


@dataclass(frozen=True)
class Analysis:
    """One analysis as the report shows it.

    Attributes:
        title: a heading.
        says: what was found.
        pictures: each as a data URI.
        table: as text; None where it is not there.
    """

    title: str
    says: str
    pictures: list[str]
    table: pd.DataFrame | None


def read_analyses(run: Path, unread: list[str]) -> list[Analysis]:
    """The analyses in a run folder, in the paper's order.

    Args:
        run: the folder; its folder `analyses` may be missing.
        unread: gets one sentence for each file that can't be read.
    """
    folder = Path(run) / FOLDER
    found = []
    for text in sorted(folder.glob("*.txt"), key=_place):
        if not text.stem.startswith(ORDER):
            continue
        try:
            title, _, says = text.read_text(encoding="utf-8").partition("\n")
            pictures = [folder / f"{text.stem}.svg", *sorted(folder.glob(f"{text.stem}-pictures.svg"))]
            shown = [_data_uri(picture) for picture in pictures if picture.is_file()]
            table = folder / f"{text.stem}-table.csv"
            read = readable_table(pd.read_csv(table)) if table.is_file() else None
        except (OSError, ValueError) as error:
            unread.append(
                f"{text.relative_to(run)} and its files can't be read: {str(error).splitlines()[0]}"
            )
            continue
        found.append(Analysis(title, says.strip(), shown, read))
    return found


def readable_table(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text: three decimals, thousands, signed changes, a dash for what is not known."""
    text = {
        str(name).replace("_", " "): [_text(value, str(name)) for value in column]
        for name, column in table.items()
    }
    return pd.DataFrame(text).astype(object)


def _place(path: Path) -> tuple[int, str]:
    place = next((place for place, name in enumerate(ORDER) if path.stem.startswith(name)), len(ORDER))
    return place, path.stem


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
