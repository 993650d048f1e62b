"""Tables of pictures from CSV and Parquet files, with faults reported by line."""

from __future__ import annotations

import csv
import difflib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facenet2expnet.errors import UserError
from facenet2expnet.labels import clean, suggestion

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image", "label", "subject", "sequence", "frame", "split", "fold")
"""`image` and `label` are required, the others are optional; further columns are kept."""

SPLITS = ("train", "valid", "test")
"""Values of the column `split` and of official fold columns; "" where a picture is in no part."""

_SPLIT_WORDS = {
    "train": "train|training|trn",
    "valid": "val|valid|validation|validate|dev|development|eval|evaluation|public ?test",
    "test": "test|testing|tst|private ?test|held ?out|hold ?out",
}
"""Words for the parts of a set. The two public names are those of FER2013."""

_SHORT = {"tr": "train", "te": "test"}
"""Words that name a part only where they are the whole name."""

_AROUND = "(?:fer|ferplus|data|dataset|set|split|part|images?|imgs?|pictures?|pics?|faces?|folder|aligned|cropped|new)*"
"""What may be joined to such a word, as in trainset and fertest."""

_PART = re.compile(
    rf"\b{_AROUND}(?:" + "|".join(f"(?P<{part}>{words})" for part, words in _SPLIT_WORDS.items()) + rf"){_AROUND}\b"
)

_SPELLINGS = {
    "image": "image images img imagepath imagefile imagename imgpath imgname path filepath file filename picture pth",
    "label": "label labels emotion expression class classname labelname emotionlabel target",
    "subject": "subject subjects subj person participant identity patient actor user",
    "sequence": "sequence seq clip video",
    "frame": "frame",
    "split": "split splits splitname usage partition datasplit",
    "fold": "fold folds kfold cvfold",
    "train_only": "trainonly",
}
"""Column -> its spellings, without case, blanks and signs."""

_NUMBER = "no nr num number id"
_SUFFIX = {"subject": f"{_NUMBER} name", "sequence": f"{_NUMBER} name", "frame": _NUMBER, "fold": _NUMBER}
"""Column -> what may follow its spellings, as in subject_id."""

_MAYBE_SPLIT = "set subset part phase dataset"
"""Columns that are the split if all their values name parts, even if they name one part only."""

NEAR = 0.8
"""Similarity from which an unknown column counts as a misspelling."""

YES_OR_NO = {"0", "1", "0.0", "1.0", "true", "false", "yes", "no"}

FAULTS_SHOWN = 10


def read_table(path: Path, *, spelling: bool = False) -> tuple[pd.DataFrame, list[int]]:
    """Read a CSV or Parquet table, and the line number of each row. All columns of a CSV are text.

    Args:
        spelling: recognise columns in other spellings, as `tidy_columns` does.
    Raises:
        UserError: If the file can't be read, a column is missing or there twice, or a CSV row has too few cells.
    """
    kind = path.suffix[1:].lower()
    try:
        if kind == "csv":
            table, lines = read_csv(path)
        else:
            import pandas as pd

            table = pd.read_parquet(path).reset_index(drop=True)
            if len(table) and any(isinstance(cell, dict) and "bytes" in cell for cell in table.iloc[0]):
                raise UserError(
                    f"{path} holds its pictures itself, in Hugging Face's form; write them to files first: "
                    f"fn2en data prepare huggingface {path}"
                )
            for _, column in table.items():  # Arrow finds text that is not UTF-8 only when it is used
                column.tolist()
            lines = list(range(1, len(table) + 1))
    except UserError:
        raise
    except Exception as fault:  # pyarrow and csv raise many kinds
        raise UserError(f"{path} can't be read as a {kind} table: {fault}; correct that, or save it again") from fault
    table = tidy_columns(table, str(path)) if spelling else table
    check_columns(table, str(path))
    return table, lines


def tidy_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Give the columns of a user's table our names: Subject and subject_id -> subject, Usage -> split, pth -> image.

    A column with our own name goes before other spellings, which then stay as they are. Without a column that is called
    split, or so, a column of any name is the split if its values name two parts or more, and nothing else.

    Raises:
        UserError: If two columns have the same meaning, a column is nearly one of ours, such as spilt, or one gives the
            parts as yes and no, such as is_train.
    """
    header = [clean(str(column)) for column in table.columns]
    plain = [re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", column).casefold()) for column in header]
    meant: dict[str, list[int]] = {}
    for number, key in enumerate(plain):
        own = next((own for own in _SPELLINGS if _is_spelling(key, own)), "")
        if key in _MAYBE_SPLIT.split() and set(map(split_name, _texts(table, number))) <= set(SPLITS):
            own = "split"
        if official := re.fullmatch(r"fold([0-9]+)", key):
            own = f"fold_{official[1]}"
        meant.setdefault(own, []).append(number)
    renamed = [f"p_{clean(column[2:])}" if column.lower().startswith("p_") else column for column in header]
    for own, numbers in meant.items():
        same = [number for number in numbers if plain[number] == own.replace("_", "")] or numbers
        if own and len({header[number] for number in same}) > 1:
            raise UserError(
                f"{name}: the columns {' and '.join(header[number] for number in same)} both mean {own}; "
                "rename or remove one"
            )
        if own:
            renamed[same[0]] = own
    for number in meant.get("", ()):
        near = difflib.get_close_matches(plain[number], [own for own in _SPELLINGS if own not in renamed], 1, NEAR)
        if near:
            raise UserError(f"{name} has a column '{header[number]}'; did you mean '{near[0]}'? rename or remove it")
    if not any(map(is_split_column, renamed)):
        for number in _find_split(table, name, header, meant.get("", [])):
            renamed[number] = "split"
    return table.set_axis(renamed, axis=1)


def _is_spelling(key: str, own: str) -> bool:
    """Whether the name of a column, without case, blanks and signs, is a spelling of one of ours."""
    known = _SPELLINGS[own].split()
    return key in known or any(key.endswith(end) and key[: -len(end)] in known for end in _SUFFIX.get(own, "").split())


def _find_split(table: pd.DataFrame, name: str, header: list[str], unknown: list[int]) -> list[int]:
    """Return the number of the unknown column whose values all name parts of a set, of two or more, if there is one."""
    found = []
    for number in unknown:
        texts = _texts(table, number)
        parts = set(map(split_name, texts))
        if len(parts) > 1 and parts <= set(SPLITS):
            found.append(number)
        key = re.sub(r"[\W_]", "", header[number].casefold()).removeprefix("is")
        if _PART.fullmatch(key) and len(texts) > 1 and {text.casefold() for text in texts} <= YES_OR_NO:
            raise UserError(
                f"{name} has a column '{header[number]}' with {' and '.join(sorted(texts))}; expected a column split "
                f"with {', '.join(SPLITS)}: add it, or remove '{header[number]}'"
            )
    if len(found) > 1:
        columns = " and ".join(header[number] for number in found)
        raise UserError(f"{name}: the columns {columns} both name parts of a set; call one of them split")
    return found


def _texts(table: pd.DataFrame, number: int) -> set[str]:
    """The different texts of a column."""
    return set(as_text(table.iloc[:, number])) - {""}


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
    for column in filter(is_split_column, table.columns):
        part = table[column]
        checks.append(
            (~part.isin(("", *SPLITS)), lambda row, c=column, p=part: not_one_of(c, p[row], SPLITS))  # type: ignore[misc]
        )
    wrong = np.flatnonzero(np.logical_or.reduce([mask for mask, _ in checks]))
    faults = [f"{place(row)}: {text(row)}" for row in wrong[:FAULTS_SHOWN] for mask, text in checks if mask[row]]
    if len(set(classes)) < len(classes):
        faults.append(f"the classes {', '.join(classes)} name one class twice")
    raise_faults(faults, len(wrong))


def split_name(name: str) -> str:
    """train, valid or test for their usual spellings, as Training, my_val or FER2013Test; any other text as it is.

    The one place that decides what names a part of a set, for folders and for cells of tables. A name with two such
    words, as train_test, names no part.
    """
    named = parts_named(name)
    return named[0] if len(named) == 1 else name


def parts_named(name: str) -> list[str]:
    """The part of a set that each word of a name stands for, without the other words: train_val -> train, valid."""
    text = unicodedata.normalize("NFKC", clean(name))
    if whole := _SHORT.get(text.casefold()):
        return [whole]
    camel = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    for words in (text, camel):
        spaced = re.sub(r"[\W\d_]+", " ", words.casefold())
        if found := [str(match.lastgroup) for match in _PART.finditer(spaced)]:
            return found
    return []


def is_split_column(name: str) -> bool:
    """Whether a column holds parts of a set: split, or an official fold, fold_1 and so on."""
    return name == "split" or (name.startswith("fold_") and name[5:].isdecimal())


def raise_faults(faults: list[str], rows: int = 0) -> None:
    """Raise a UserError with the first faults, if there are any; `rows` is the number of faulty rows."""
    more = max(rows, len(faults)) - FAULTS_SHOWN
    if faults:
        raise UserError("\n".join(faults[:FAULTS_SHOWN]) + (f"\n… and {more} more" if more > 0 else ""))


def as_text(column: pd.Series) -> pd.Series:
    """Text with "" for missing values; whole numbers that pandas holds as floats lose their `.0`."""
    import pandas as pd

    if pd.api.types.is_float_dtype(column):
        texts = ["" if pd.isna(v) else f"{v:.0f}" if v.is_integer() else str(v) for v in map(float, column)]
    else:
        texts = [v.strip() if isinstance(v, str) else "" if pd.isna(v) else str(v) for v in column]
    return pd.Series(texts, dtype=object)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV, the header first, with the line on which each ends: the one reader of all tables.

    Cells are separated by commas, semicolons or tabs. A byte order mark and blank lines do not matter, nor do empty
    cells beyond those of the first row.

    Raises:
        UserError: If the file is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            reader, count = csv.reader(file, delimiter=max(",;\t", key=first.count)), 0
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    count = count or len(cells)
                    while len(cells) > count and not cells[-1].strip():
                        cells.pop()
                    yield reader.line_num, cells
    except UnicodeDecodeError as fault:
        line = path.read_bytes()[: _first_not_utf8(path)].count(b"\n") + 1
        raise UserError(f"{path} line {line} is not UTF-8; save the table as 'CSV UTF-8'") from fault
    except csv.Error as fault:
        raise UserError(f"{path} can't be read as a table: {fault}") from fault


def read_csv(path: Path, without: Collection[str] = ()) -> tuple[pd.DataFrame, list[int]]:
    """Read a CSV as text, and the line on which each row ends; see `csv_rows`.

    Args:
        without: columns that are not kept, such as long lists of pixels.
    Raises:
        UserError: If the file is not UTF-8, or a row has more or fewer cells than the header.
    """
    import pandas as pd

    rows = csv_rows(path)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    kept = [number for number, name in enumerate(header) if name not in without]
    lines, table, faults, wrong = list[int](), list[list[str]](), list[str](), 0
    for line, cells in rows:
        if len(cells) == len(header):
            lines.append(line)
            table.append([cells[number] for number in kept])
        else:
            wrong += 1
            if wrong <= FAULTS_SHOWN:
                expected = f"expected {len(header)} cells ({', '.join(header)})"
                faults.append(f"{path.name} line {line}: {expected}, got {len(cells)}")
    raise_faults(faults, wrong)
    return pd.DataFrame(table, columns=[header[number] for number in kept], dtype=object), lines


def _first_not_utf8(path: Path) -> int:
    """The position of the first byte of a file that is not UTF-8."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as fault:
        return fault.start
    return 0
