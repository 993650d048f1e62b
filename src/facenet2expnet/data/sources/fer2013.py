"""FER2013: small grey faces from the web, with the labels of the competition or FER+'s votes."""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.folders import from_folder
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import png_bytes
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.data.table import csv_rows, read_csv, split_name
from facenet2expnet.errors import UserError
from facenet2expnet.labels import FER2013_CODES, FERPLUS_VOTES, canonical

SIDE_PX = 48
USAGES = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv", "train.csv")
ZIPS = ("training", "public_test", "private_test")
VOTES_NAME = "fer2013new.csv"
FERPLUS_FOLDERS = {"FER2013Train": "train", "FER2013Valid": "valid", "FER2013Test": "test"}
NAME = re.compile(r"fer([0-9]{7})\.png")
VOTES = [*FERPLUS_VOTES, "unknown", "NF"]
CODES = {str(code): name for code, name in FER2013_CODES.items()}
OF_ZIPS = {"usage": "Usage", "fer2013_label": "emotion", "image": "Image name"} | {f"fp_{name}": name for name in VOTES}
"""Columns of the zip form -> the same columns of the CSV form and of FER+."""


def read(path: Path, labels: str = "fer2013", unlabelled: str = "drop") -> Manifest:
    """FER2013 with its three parts as train, valid and test.

    Args:
        labels: "fer2013" for the competition's labels, "ferplus" for FER+'s majority. With FER+ the vote shares
            are in the columns `p_<class>`.
        unlabelled: "drop" or "keep" the pictures without a label: some of the zip form's, and with FER+ those without a
            majority.
    Raises:
        UserError: If no form of the dataset is there, FER+'s file does not fit, or a line is damaged.
    """
    layout.check_option("labels", labels, ("fer2013", "ferplus"))
    layout.check_option("unlabelled", unlabelled, ("drop", "keep"))
    ferplus, files, notes = labels == "ferplus", _files(path), list[str]()
    lists = {
        split: file for name, split in FERPLUS_FOLDERS.items() if (file := layout.child(path, f"{name}/label.csv"))
    }
    if not files and not lists and path.is_dir() and any(split_name(p.name) == "train" for p in layout.entries(path)):
        return _read_folders(path, ferplus)
    if not files and not lists:
        expected = f"{' or '.join(CSV_NAMES)}, training.zip with training.csv, or FER2013Train/label.csv"
        raise layout.wrong_root(path, "FER2013", expected, FERPLUS_FOLDERS)
    if lists and not files and not ferplus:
        raise UserError(
            f"{path}: the folders of FER+ hold its votes only, not the competition's labels; pass labels=ferplus"
        )
    parts = [_read_csv(file, ferplus) if packed is None else _read_zip(file, packed, notes) for file, packed in files]
    parts = parts or [_read_label_csv(file, path, split, notes) for split, file in lists.items()]
    cells = pd.concat(parts, ignore_index=True)
    table = pd.DataFrame(
        {"image": cells["Image name"], "label": cells["emotion"], "split": cells["Usage"].map(split_name)}
    )
    if ferplus:
        votes = cells[VOTES].to_numpy(np.int64)
        table["label"] = np.array([*FERPLUS_VOTES, ""], object)[majority(votes)]
        table[[f"p_{name}" for name in FERPLUS_VOTES]] = shares(votes)
    blank, drop = table["label"] == "", unlabelled == "drop"
    if blank.any():
        what = "without a FER+ majority for an expression" if ferplus else "without a label"
        notes.append(f"{blank.sum()} pictures {what} were {'left out' if drop else 'kept'}.")
    table = table[~blank] if drop else table
    if not len(table):
        raise UserError(f"{path} holds no labelled picture")
    counts = ", ".join(f"{split} {(table['split'] == split).sum()}" for split in USAGES.values())
    notes.insert(0, f"{len(table)} pictures were read ({counts}).")
    name = "ferplus" if ferplus else "fer2013"
    return Manifest(table, path if path.is_dir() else path.parent, name=name, notes=tuple(notes))


def pictures(path: Path, **_options: object) -> Iterator[tuple[str, bytes]] | None:
    """Name and PNG bytes of every picture; None if they are files already."""
    files = _files(path)
    return _pictures(files) if files else None


def majority(votes: np.ndarray) -> np.ndarray:
    """FER+'s majority label of each picture.

    Args:
        votes: (N, 10) counts in the order of `VOTES`.
    Returns:
        (N,) int64, the number of the column with more than half of the votes, without single votes; -1 if no column
        has that many, or it is unknown or not a face.
    Source: Barsoum et al. 2016 (arXiv 1608.01041), majority voting, as in the authors' FERPlus code.
    """
    kept = np.where(votes > 1, votes, 0)  # FER+ takes a single vote as an error
    best = kept.argmax(axis=1)
    clear = kept.max(axis=1) > 0.5 * kept.sum(axis=1)
    return np.where(clear & (best < len(FERPLUS_VOTES)), best, -1)


def shares(votes: np.ndarray) -> np.ndarray:
    """The shares (N, 8) float64 of the expressions among the votes for an expression, without single votes.

    All expressions with two votes or more count. FER+'s own probability mode keeps the three largest and may drop
    the picture. Rows without such votes are 0, and so are those with at least as many for unknown or not a face.
    """
    kept = np.where(votes > 1, votes, 0).astype(np.float64)
    expressions, others = kept[:, : len(FERPLUS_VOTES)], kept[:, len(FERPLUS_VOTES) :]
    total = expressions.sum(axis=1, keepdims=True)
    usable = total > others.sum(axis=1, keepdims=True)
    return np.divide(expressions, total, out=np.zeros_like(expressions), where=usable)


def _files(path: Path) -> list[tuple[Path, Path | None]]:
    """Each table with the zip of its pictures, None where the table holds them; empty if neither form is here."""
    if path.is_file():
        return [(path, None)] if path.suffix.lower() == ".csv" else []
    if file := layout.child(path, *CSV_NAMES, *(f"fer2013/{name}" for name in CSV_NAMES)):
        return [(file, None)]
    found = [(layout.child(path, f"{part}.csv"), layout.child(path, f"{part}.zip")) for part in ZIPS]
    return [(table, packed) for table, packed in found if table is not None and packed is not None]


def _read_csv(file: Path, ferplus: bool) -> pd.DataFrame:
    """The cells of the CSV form, with FER+'s names and votes if its file is beside it."""
    cells = _cells(file, ["emotion", "Usage"])
    votes_file = layout.child(file.parent, VOTES_NAME)
    if votes_file is None and ferplus:
        raise UserError(f"labels=ferplus needs FER+'s file {VOTES_NAME} beside {file}; see fn2en data how-to fer2013")
    if votes_file is None:
        return cells.assign(**{"Image name": [f"row{number:07d}.png" for number in range(len(cells))]})
    votes = _cells(votes_file, ["Usage", "Image name", *VOTES])
    if set(cells["Usage"]) == {"Training"}:  # Kaggle's train.csv
        votes = votes[votes["Usage"] == "Training"]
    if len(votes) != len(cells):
        raise UserError(f"{votes_file} has {len(votes)} lines, {file.name} {len(cells)} pictures; is one cut off?")
    wrong = votes["Usage"] != cells["Usage"]
    _check(votes_file, votes["line"], wrong, f"the same parts as in {file.name}", votes[["Usage", "Image name"]])
    return cells.join(votes[VOTES]).assign(**{"Image name": _names(votes_file, votes)})


def _names(file: Path, votes: pd.DataFrame) -> list[str]:
    """The name of each picture in FER+; rowNNNNNNN.png, by its row in FER2013, for those that FER+ does not name.

    FER+'s numbers are not the rows of FER2013. It took some pictures out (71 of Training), numbered the others over all
    three parts, and gave no name to those of them that all ten raters called no face. So a row without a name may use
    up a number (row 17, before fer0000018.png) or not (row 59, before fer0000059.png, which is row 60; the first of
    PublicTest, row 28709, is fer0028638.png). Only FER+'s file says which: without it, no picture has a name of FER+.
    """
    names, ahead, last = list[str](), 0, -1
    for row, (name, line) in enumerate(zip(votes["Image name"], votes["line"], strict=True)):
        number = int(match[1]) if (match := NAME.fullmatch(name)) else row - ahead
        if (name and not match) or not last < number <= row - ahead:
            raise UserError(
                f"{file} line {line}: expected a name from fer{last + 1:07d}.png to fer{row - ahead:07d}.png, or none, "
                f"got '{name}'; is it FER+'s file, with its lines in their order?"
            )
        if name:
            ahead, last = row - number, number
        names.append(name or f"row{row:07d}.png")
    return names


def _read_label_csv(file: Path, root: Path, split: str, notes: list[str]) -> pd.DataFrame:
    """The cells of a label.csv of FER+'s folder form, without a header: name, sometimes a box, ten votes."""
    names, votes, missing = list[str](), list[list[int]](), list[str]()
    for line, cells in csv_rows(file):
        name, counts = cells[0].strip(), [cell.strip() for cell in cells[-len(VOTES) :]]
        if len(cells) not in (len(VOTES) + 1, len(VOTES) + 2) or not all(map(_is_count, counts)):
            raise UserError(f"{file} line {line}: expected a name and ten numbers of votes, got '{','.join(cells)}'")
        if (file.parent / name).is_file():
            names.append((file.parent / name).relative_to(root).as_posix())
            votes.append(list(map(int, counts)))
        else:
            missing.append(name)
    notes += layout.counted(missing, f"pictures of {file.parent.name}/{file.name} are missing")
    return pd.DataFrame(votes, columns=VOTES).assign(**{"Image name": names, "Usage": split, "emotion": ""})


def _read_zip(file: Path, packed: Path, notes: list[str]) -> pd.DataFrame:
    """The cells of one part of the zip form; pictures that are not in the zip are left out and noted."""
    cells = _cells(file, ["emotion", "Usage", "Image name", *VOTES])
    with _open_zip(packed) as opened:
        inside = cells["Image name"].isin(opened.namelist())
    if not inside.all():
        notes.append(f"{(~inside).sum()} pictures of {file.name} are not in {packed.name}.")
    return cells[inside]


def _cells(file: Path, columns: list[str]) -> pd.DataFrame:
    """These columns of a CSV as text, and line; `emotion` becomes a class, votes become numbers.

    A table without the column Usage is Kaggle's train.csv: the Training part.
    """
    table, lines = read_csv(file, without=("pixels",))
    header = list(table.columns)
    table = table.rename(columns=OF_ZIPS)
    if columns == ["emotion", "Usage"] and "Usage" not in table:
        table["Usage"] = "Training"
    if missing := sorted(set(columns) - set(table.columns)):
        advice = "; Kaggle's test.csv has no labels" if missing == ["emotion"] else ""
        raise UserError(f"{file} lacks the column {', '.join(missing)}; it has {', '.join(header)}{advice}")
    table = table[columns].apply(lambda column: column.str.strip()).assign(line=lines)
    if "emotion" in columns:
        classes = table["emotion"].map(lambda text: CODES.get(text, canonical(text) if text else ""))
        wrong = classes.isna() | ~table["Usage"].isin(USAGES)
        expected = f"an emotion from 0 to 6, or its name, and one of {', '.join(USAGES)}"
        _check(file, table["line"], wrong, expected, table[["emotion", "Usage"]])
        table["emotion"] = classes
    if VOTES[0] in columns:
        wrong = ~table[VOTES].map(_is_count).all(axis=1)
        _check(file, table["line"], wrong, "ten numbers of votes", table[VOTES])
        table[VOTES] = table[VOTES].astype(np.int64)
    return table


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _check(file: Path, lines: pd.Series, wrong: pd.Series, expected: str, got: pd.DataFrame) -> None:
    """Raise a UserError for the first line that is wrong."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{file} line {lines.iloc[row]}: expected {expected}, got '{' '.join(got.iloc[row])}'; "
            "is the download complete?"
        )


def _read_folders(path: Path, ferplus: bool) -> Manifest:
    """The form train/angry/…, test/angry/…, in which PublicTest and PrivateTest are often one part."""
    if ferplus:
        raise UserError(f"{path}: folders of pictures can't be joined with FER+; use fer2013.csv and {VOTES_NAME}")
    found = from_folder(path)
    table = found.table
    labels = table["label"].map(canonical)
    if unknown := sorted(set(table["label"][labels.isna()])):
        raise UserError(f"{path}: the folders {', '.join(unknown)} are no expressions of FER2013")
    joined = "" if "valid" in set(table.get("split", ())) else ", in which PublicTest and PrivateTest are one part"
    notes = (f"Pictures were read from folders{joined}.", *found.notes)
    return Manifest(table.assign(label=labels), path, name="fer2013", notes=notes)


def _pictures(files: Iterable[tuple[Path, Path | None]]) -> Iterator[tuple[str, bytes]]:
    for file, packed in files:
        if packed is not None:
            with _open_zip(packed) as opened:
                yield from ((name, opened.read(name)) for name in opened.namelist() if name.lower().endswith(".png"))
            continue
        names = _read_csv(file, ferplus=False)["Image name"]
        rows = csv_rows(file)
        column = [name.strip() for name in next(rows)[1]].index("pixels")
        for name, (line, cells) in zip(names, rows, strict=True):
            values = np.array([value for value in cells[column].split() if value.isdecimal()], np.int64)
            if values.size != SIDE_PX**2 or values.max() > 255:
                raise UserError(f"{file} line {line}: expected {SIDE_PX**2} pixels from 0 to 255, got {values.size}")
            yield name, png_bytes(values.astype(np.uint8).reshape(SIDE_PX, SIDE_PX))


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, OSError) as fault:
        raise UserError(f"{path} can't be read as a zip: {fault}; is the download complete?") from fault


OPTIONS = {
    "labels": "fer2013 (the competition's) or ferplus (FER+'s majority and vote shares)",
    "unlabelled": "drop or keep the pictures without a label, which are never tested",
}
SOURCE = Source("fer2013", "FER2013, with FER+ labels if its file is beside it", read, OPTIONS, pictures)
