"""FER2013: small grey faces from the web, with the labels of the competition or FER+'s votes."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, from_folder
from facenet2expnet.data.pictures import png_bytes
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import child, wrong_root
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, FER2013_CODES, FERPLUS_VOTES, canonical

SIDE_PX = 48
USAGES = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
LABELS = ("fer2013", "ferplus")
UNLABELLED = ("drop", "keep")
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
VOTES_NAME = "fer2013new.csv"
ZIPS = {"training": "Training", "public_test": "PublicTest", "private_test": "PrivateTest"}
OUTLIER_VOTES = 1
"""FER+ takes a single vote for an expression as a slip and drops it."""

ABOUT = About(
    title="FER2013, with FER+ labels where its file is beside it",
    ask="Kaggle, 'Challenges in Representation Learning: Facial Expression Recognition Challenge'; FER+ is "
    "fer2013new.csv from github.com/microsoft/FERPlus",
    terms="Research use; pictures found on the web. FER+ labels: MIT licence.",
    tree="""
fer2013.csv  or  icml_face_data.csv        (emotion, pixels, Usage)
fer2013new.csv                             (FER+ votes, optional)
  or
train/angry/..., test/angry/...            (the picture form)
  or
training.zip + training.csv, public_test.zip + public_test.csv   (PNG, with image, usage, fer2013_label, fp_* votes)
""",
    classes="7 (An Di Fe Ha Sa Su Ne); with FER+ 8 (contempt too).",
    protocol="Train on Training, choose on PublicTest, report PrivateTest: --protocol split.",
    traps=(
        "279 pictures of PublicTest are in Training, pixel for pixel: fn2en data audit finds them; leave them out.",
        "Many labels are wrong: FER+ was made for that reason; say which labels you used.",
        "With FER+, pictures that are no face, unknown or without a majority are left out and counted.",
        "Subjects are unknown. Faces are cropped: prepare with --detector already-cropped.",
    ),
)


def read(path: Path, labels: str = "fer2013", unlabelled: str = "drop") -> Manifest:
    """FER2013 with its three parts as train, valid and test.

    Args:
        labels: "fer2013" for the competition's labels, "ferplus" for FER+'s majority. With FER+ the shares of the
            votes stand in the columns `p_<class>`.
        unlabelled: "drop" or "keep" the pictures of the zip form that have no label. They take no part in any
            fold; the audit wants them.
    Raises:
        UserError: If no form of the set is there, FER+'s file does not fit, or a line is damaged.
    """
    if labels not in LABELS:
        raise UserError(f"labels is {labels}, expected {' or '.join(LABELS)}")
    if unlabelled not in UNLABELLED:
        raise UserError(f"unlabelled is {unlabelled}, expected {' or '.join(UNLABELLED)}")
    file = _csv_file(path)
    if file is not None:
        table, notes = _from_csv(file, labels)
    elif path.is_dir() and _zip_parts(path):
        table, notes = _from_zips(path, labels, unlabelled == "keep")
    elif path.is_dir() and child(path, "train") is not None:
        return _from_pictures(path, labels)
    else:
        raise wrong_root(path, "FER2013", f"{' or '.join(CSV_NAMES)}, or training.zip with training.csv")
    if not len(table):
        raise UserError(f"{path} holds no labelled picture")
    counts = table["split"].value_counts()
    listed = ", ".join(f"{split} {counts.get(split, 0)}" for split in USAGES.values())
    notes.insert(0, f"{len(table)} pictures were read ({listed}).")
    classes = EXPRESSIONS if labels == "ferplus" else tuple(n for n in EXPRESSIONS if n != "contempt")
    order = tuple(name for name in classes if (table["label"] == name).any())
    root = path if path.is_dir() else path.parent
    return Manifest(
        table, root, order, name="fer2013" if labels == "fer2013" else "ferplus", notes=tuple(notes)
    )


def pictures(path: Path, **_options: object) -> Iterator[tuple[str, bytes]] | None:
    """Name and PNG bytes of every picture; None where they are files already."""
    file = _csv_file(path)
    if file is not None:
        return _pictures_of_csv(file)
    return _pictures_of_zips(path) if path.is_dir() and _zip_parts(path) else None


def majority(votes: np.ndarray) -> np.ndarray:
    """FER+'s majority label of each picture.

    Args:
        votes: (N, 10) counts: the eight expressions in the order of FERPLUS_VOTES, unknown, not a face.
    Returns:
        (N,) int64, the number of the column with more than half of the votes, single votes left out; -1 where no
        column has that many, or it is unknown or not a face.
    Source: Barsoum et al. 2016 (arXiv 1608.01041), majority voting, as in the authors' FERPlus code.
    """
    kept = np.where(votes > OUTLIER_VOTES, votes, 0)
    best = kept.argmax(axis=1)
    clear = kept.max(axis=1) > 0.5 * kept.sum(axis=1)
    return np.where(clear & (best < len(FERPLUS_VOTES)), best, -1)


def shares(votes: np.ndarray) -> np.ndarray:
    """The shares (N, 8) float64 of the expressions among the votes for an expression, single votes left out.

    We use all expressions with two votes or more. FER+'s own probability mode keeps the three largest and may drop
    the picture; ours keeps every picture that has a majority label. Rows without such votes are 0.
    """
    kept = np.where(votes > OUTLIER_VOTES, votes, 0)[:, : len(FERPLUS_VOTES)].astype(np.float64)
    total = kept.sum(axis=1, keepdims=True)
    return np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)


def _csv_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() == ".csv" else None
    folders = [path] + [
        p for name in ("fer2013", "fer2013 2") if (p := child(path, name)) is not None and p.is_dir()
    ]
    return next(
        (p for folder in folders if (p := child(folder, *CSV_NAMES)) is not None and p.is_file()), None
    )


def _rows_of(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of a CSV, names and cells without the blanks that icml_face_data.csv has."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text)
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if len(cells) != len(header):
                raise UserError(
                    f"{file} line {reader.line_num}: expected {len(header)} cells ({', '.join(header)}), got "
                    f"{len(cells)}; is the download complete?"
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))


def _from_csv(file: Path, labels: str) -> tuple[pd.DataFrame, list[str]]:
    rows: list[tuple[str, str, str]] = []
    for line, cells in _rows_of(file):
        lacking = {"emotion", "Usage", "pixels"} - set(cells)
        if lacking:
            raise UserError(
                f"{file} lacks the column {', '.join(sorted(lacking))}; its header says {', '.join(cells)}"
            )
        usage = cells["Usage"]
        code = cells["emotion"]
        if usage not in USAGES or not code.isdecimal() or int(code) not in FER2013_CODES:
            raise UserError(
                f"{file} line {line}: expected an emotion from 0 to 6 and one of {', '.join(USAGES)}, got "
                f"'{code}' and '{usage}'"
            )
        rows.append((_name(len(rows)), FER2013_CODES[int(code)], USAGES[usage]))
    table = pd.DataFrame(rows, columns=["image", "label", "split"])
    if labels == "fer2013":
        return table, []
    votes_file = child(file.parent, VOTES_NAME)
    if votes_file is None:
        raise UserError(
            f"labels=ferplus needs FER+'s file {VOTES_NAME} beside {file}; see fn2en data how-to fer2013"
        )
    return _joined(table, _votes_of(votes_file, table))


def _votes_of(file: Path, table: pd.DataFrame) -> np.ndarray:
    """FER+'s votes (N, 10), row by row with fer2013.csv; checked by count, part and picture name."""
    votes: list[list[int]] = []
    for line, cells in _rows_of(file):
        number = len(votes)
        if number >= len(table):
            raise UserError(f"{file} has more lines than fer2013.csv has pictures ({len(table)})")
        name, usage = cells.get("Image name", ""), cells.get("Usage", "")
        if USAGES.get(usage) != table["split"].iloc[number] or (name and name != _name(number)):
            raise UserError(
                f"{file} line {line}: expected {_name(number)} of {table['split'].iloc[number]}, got '{name}' of "
                f"'{usage}'; the two files do not belong together, or lines are missing"
            )
        try:
            counts = [int(cells[column]) for column in (*FERPLUS_VOTES, "unknown", "NF")]
        except (KeyError, ValueError) as fault:
            raise UserError(f"{file} line {line}: the votes can't be read: {fault}") from fault
        votes.append(counts)
    if len(votes) != len(table):
        raise UserError(
            f"{file} has {len(votes)} lines, fer2013.csv {len(table)} pictures; is one of them cut off?"
        )
    return np.array(votes, np.int64)


def _joined(table: pd.DataFrame, votes: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    """The table with FER+'s majority as label and the shares of the votes; without a majority a row is left out."""
    label = majority(votes)
    share = shares(votes)
    kept = label >= 0
    table = table.loc[kept].reset_index(drop=True)
    table["label"] = [FERPLUS_VOTES[number] for number in label[kept]]
    for number, name in enumerate(FERPLUS_VOTES):
        table[f"p_{name}"] = share[kept, number]
    left = int((~kept).sum())
    return table, [
        f"{left} pictures without a FER+ majority for an expression were left out."
    ] if left else []


def _zip_parts(path: Path) -> dict[str, tuple[Path, Path]]:
    """Part -> (zip, CSV) of the zip form."""
    found = {}
    for part in ZIPS:
        packed, table = child(path, f"{part}.zip"), child(path, f"{part}.csv")
        if packed is not None and table is not None:
            found[part] = (packed, table)
    return found


def _from_zips(path: Path, labels: str, keep: bool) -> tuple[pd.DataFrame, list[str]]:
    rows: list[tuple[str, str, str]] = []
    votes: list[list[int]] = []
    notes: list[str] = []
    blank: Counter[str] = Counter()
    columns = [f"fp_{name}" for name in (*FERPLUS_VOTES, "unknown", "NF")]
    for part, (packed, file) in _zip_parts(path).items():
        there = set(_open_zip(packed).namelist())
        missing = 0
        for line, cells in _rows_of(file):
            lacking = {"image", "usage", "fer2013_label"} - set(cells)
            if lacking:
                raise UserError(f"{file} lacks the column {', '.join(sorted(lacking))}")
            if cells["image"] not in there:
                missing += 1
                continue
            label = canonical(cells["fer2013_label"]) if cells["fer2013_label"] else ""
            if label is None or cells["usage"] not in USAGES:
                raise UserError(
                    f"{file} line {line}: '{cells['fer2013_label']}' or '{cells['usage']}' is unknown"
                )
            if labels == "fer2013" and not label:
                blank[part] += 1
                if not keep:
                    continue
            rows.append((cells["image"], label, USAGES[cells["usage"]]))
            if labels == "ferplus":
                try:
                    votes.append([int(cells[column]) for column in columns])
                except (KeyError, ValueError) as fault:
                    raise UserError(f"{file} line {line}: the votes can't be read: {fault}") from fault
        if missing:
            notes.append(f"{missing} pictures of {file.name} are not in {packed.name}.")
    table = pd.DataFrame(rows, columns=["image", "label", "split"])
    if blank:
        listed = ", ".join(f"{part} {count}" for part, count in blank.items())
        notes.append(
            f"{sum(blank.values())} pictures without a label were {'kept' if keep else 'left out'} ({listed})."
        )
    if labels == "ferplus":
        table, more = _joined(table, np.array(votes, np.int64).reshape(-1, len(columns)))
        notes += more
    return table, notes


def _from_pictures(path: Path, labels: str) -> Manifest:
    """The form train/angry/…, test/angry/…, in which the parts PublicTest and PrivateTest are one."""
    if labels == "ferplus":
        raise UserError(
            f"{path}: the picture form can't be joined with FER+; use fer2013.csv and {VOTES_NAME}"
        )
    manifest = from_folder(path)
    names = [canonical(label) for label in manifest.table["label"]]
    unknown = sorted({old for old, new in zip(manifest.table["label"], names, strict=True) if new is None})
    if unknown:
        raise UserError(f"{path}: the folders {', '.join(unknown)} are no expressions of FER2013")
    table = manifest.table.assign(label=np.array(names, dtype=object))
    notes = ("Pictures were read from folders; PublicTest and PrivateTest can't be told apart in them.",)
    return Manifest(table, path, name="fer2013", notes=notes)


def _pictures_of_csv(file: Path) -> Iterator[tuple[str, bytes]]:
    for number, (line, cells) in enumerate(_rows_of(file)):
        pixels = np.array(cells["pixels"].split(), np.int64)
        if pixels.size != SIDE_PX**2 or pixels.min() < 0 or pixels.max() > 255:
            raise UserError(
                f"{file} line {line}: expected {SIDE_PX**2} pixels from 0 to 255, got {pixels.size}"
            )
        yield _name(number), png_bytes(pixels.astype(np.uint8).reshape(SIDE_PX, SIDE_PX))


def _pictures_of_zips(path: Path) -> Iterator[tuple[str, bytes]]:
    for packed, _ in _zip_parts(path).values():
        with _open_zip(packed) as opened:
            for name in opened.namelist():
                if name.lower().endswith(".png"):
                    yield name, opened.read(name)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as fault:
        raise UserError(f"{path} can't be read as a zip: {fault}; is the download complete?") from fault


def _name(number: int) -> str:
    """A picture's name as FER+ gives it."""
    return f"fer{number:07d}.png"


SOURCE = Source(
    "fer2013",
    ABOUT,
    read,
    {
        "labels": "fer2013 (the competition's) or ferplus (FER+'s majority and vote shares)",
        "unlabelled": "drop or keep the pictures without a label, which take no part in any fold",
    },
    pictures,
)
