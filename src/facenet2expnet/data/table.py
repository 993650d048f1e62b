"""Tables of pictures from CSV and Parquet files, with faults reported by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facenet2expnet.errors import UserError
from facenet2expnet.labels import suggestion

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image", "label", "subject", "sequence", "frame", "split", "fold")
"""`image` and `label` are required, the others are optional; further columns are kept."""

SPLITS = ("train", "valid", "test")
"""Values of the column `split` and of official fold columns; "" where a picture is in no part."""

_SPELLINGS = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}

FAULTS_SHOWN = 10


def read_table(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """Read a CSV or Parquet table, and the line number of each row. All columns of a CSV are text.

    Raises:
        UserError: If the file can't be read, a column is missing or there twice, or a CSV row has too few cells.
    """
    kind = path.suffix[1:].lower()
    try:
        if kind == "csv":
            table, lines = _read_csv(path)
        else:
            import pandas as pd

            table = pd.read_parquet(path).reset_index(drop=True)
            lines = list(range(1, len(table) + 1))
    except UserError:
        raise
    except Exception as fault:  # pyarrow and csv raise many kinds
        raise UserError(f"{path} can't be read as a {kind} table: {fault}; correct that, or save it again") from fault
    check_columns(table, str(path))
    return table, lines


def check_columns(table: pd.DataFrame, name: str) -> None:
    """Raise a UserError if a table lacks image or label, or has a column twice."""
    header = [str(column) for column in table.columns]
    if missing := [column for column in COLUMNS[:2] if column not in header]:
        raise UserError(
            f"{name} has no column {' and no column '.join(missing)}; its header is "
            f"{', '.join(header) or 'empty'}; expected at least image,label: rename the columns"
        )
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise UserError(f"{name} has the column {', '.join(twice)} twice; rename or remove one")


def check_rows(table: pd.DataFrame, place: Callable[[int], str], classes: tuple[str, ...]) -> None:
    """Check images, labels and splits of all rows.

    Args:
        table: columns image, label and perhaps split, as text.
        place: names a row in messages, as "labels.csv line 4".
        classes: the allowed labels.
    Raises:
        UserError: With the faults of all rows.
    """

    def not_one_of(what: str, value: str, known: tuple[str, ...]) -> str:
        return f"{what} '{value}' is not one of {', '.join(known)}{suggestion(value, known)}"

    image, label = table["image"], table["label"]
    blank, odd = image == "", (image + label).str.contains(r"[\x00-\x1f\x7f\ud800-\udfff]").astype(bool)
    repeated = image.duplicated() & ~blank
    checks: list[tuple[pd.Series, Callable[[int], str]]] = [
        (blank, lambda row: "the column image is empty; expected the path of a picture"),
        (
            repeated,
            lambda row: f"'{image[row]}' is already in {place(int(np.argmax(image == image[row])))}; remove one",
        ),
        (odd, lambda row: f"{image[row]!a}, {label[row]!a} has a control character or is not UTF-8; rename it"),
        (~label.isin(("", *classes)), lambda row: not_one_of("class", label[row], classes)),
    ]
    if "split" in table.columns:
        split = table["split"]
        checks.append((~split.isin(("", *SPLITS)), lambda row: not_one_of("split", split[row], SPLITS)))
    wrong = np.flatnonzero(np.logical_or.reduce([mask for mask, _ in checks]))
    faults = [f"{place(row)}: {text(row)}" for row in wrong[:FAULTS_SHOWN] for mask, text in checks if mask[row]]
    if len(set(classes)) < len(classes):
        faults.append(f"the classes {', '.join(classes)} name one class twice")
    raise_faults(faults, len(wrong))


def split_name(name: str) -> str:
    """train, valid or test for their usual spellings; any other text as it is."""
    lowered = name.strip().lower()
    lowered = _SPELLINGS.get(lowered, lowered)
    return lowered if lowered in SPLITS else name


def raise_faults(faults: list[str], rows: int = 0) -> None:
    """Raise a UserError with the first faults, if there are any; `rows` is the number of faulty rows."""
    more = max(rows, len(faults)) - FAULTS_SHOWN
    if faults:
        raise UserError("\n".join(faults[:FAULTS_SHOWN]) + (f"\n… and {more} more" if more > 0 else ""))


def as_text(column: pd.Series) -> pd.Series:
    """Text with "" for missing values; whole numbers that pandas holds as floats lose their `.0`."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column):
        texts = ["" if pd.isna(v) else str(int(v)) if v == int(v) else str(v) for v in column]
    else:
        texts = [v.strip() if isinstance(v, str) else "" if pd.isna(v) else str(v) for v in column]
    return pd.Series(texts, dtype=object)


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """Read a CSV (commas, semicolons or tabs) as text, and the line on which each row ends, without blank lines."""
    import pandas as pd

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise UserError(f"{path} line {line} is not UTF-8; save the table as 'CSV UTF-8'") from fault
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    header = [name.strip() for name in rows[0][1]] if rows else []
    expected = f"expected {len(header)} cells ({', '.join(header)})"
    wrong = [(line, len(cells)) for line, cells in rows if len(cells) != len(header)]
    raise_faults([f"{path.name} line {line}: {expected}, got {count}" for line, count in wrong])
    table = pd.DataFrame([cells for _, cells in rows[1:]], columns=header, dtype=object)
    return table, [line for line, _ in rows[1:]]
