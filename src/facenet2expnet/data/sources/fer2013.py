"""FER2013: small grey faces from the web, with the labels of the competition or FER+'s votes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, from_folder
from facenet2expnet.data.pictures import png_bytes
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, FER2013_CODES, FERPLUS_VOTES, canonical

SIDE_PX = 48
USAGES = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
VOTES_NAME = "fer2013new.csv"
VOTES = (*FERPLUS_VOTES, "unknown", "NF")
ZIPS = ("training", "public_test", "private_test")
CODES = {str(code): name for code, name in FER2013_CODES.items()}
OUTLIER_VOTES = 1
"""FER+ takes a single vote for an expression as an error and drops it."""


def read(path: Path, labels: str = "fer2013", unlabelled: str = "drop") -> Manifest:
    """FER2013 with its three parts as train, valid and test.

    Args:
        labels: "fer2013" for the competition's labels, "ferplus" for FER+'s majority. With FER+ the vote shares
            are in the columns `p_<class>`.
        unlabelled: "drop" or "keep" the pictures of the zip form that have no label.
    Raises:
        UserError: If no form of the dataset is there, FER+'s file does not fit, or a line is damaged.
    """
    layout.check_option("labels", labels, ("fer2013", "ferplus"))
    layout.check_option("unlabelled", unlabelled, ("drop", "keep"))
    notes: list[str] = []
    if (file := _csv_file(path)) is not None:
        table = _read_csv(file, labels == "ferplus")
    elif _zip_parts(path):
        table = _read_zips(path, notes)
    elif layout.child(path, "train") is not None:
        return _read_folders(path, labels)
    else:
        raise layout.wrong_root(path, "FER2013", f"{' or '.join(CSV_NAMES)}, or training.zip with training.csv")
    if labels == "ferplus":
        votes = table[list(VOTES)].to_numpy(np.int64)
        best = majority(votes)
        table["label"] = [FERPLUS_VOTES[number] if number >= 0 else "" for number in best]
        table[[f"p_{name}" for name in FERPLUS_VOTES]] = shares(votes)
    blank = table["label"] == ""
    drop = labels == "ferplus" or unlabelled == "drop"
    if blank.any():
        what = "without a FER+ majority for an expression" if labels == "ferplus" else "without a label"
        notes.append(f"{blank.sum()} pictures {what} were {'left out' if drop else 'kept'}.")
    table = (table[~blank] if drop else table).drop(columns=list(VOTES), errors="ignore")
    if not len(table):
        raise UserError(f"{path} holds no labelled picture")
    counts = ", ".join(f"{split} {(table['split'] == split).sum()}" for split in USAGES.values())
    notes.insert(0, f"{len(table)} pictures were read ({counts}).")
    order = tuple(name for name in EXPRESSIONS if name in set(table["label"]))
    root, name = (path if path.is_dir() else path.parent), ("fer2013" if labels == "fer2013" else "ferplus")
    return Manifest(table, root, order, name=name, notes=tuple(notes))


def pictures(path: Path, **_options: object) -> Iterator[tuple[str, bytes]] | None:
    """Name and PNG bytes of every picture; None if they are files already."""
    if (file := _csv_file(path)) is not None:
        return _pictures_of_csv(file)
    return _pictures_of_zips(path) if _zip_parts(path) else None


def majority(votes: np.ndarray) -> np.ndarray:
    """FER+'s majority label of each picture.

    Args:
        votes: (N, 10) counts in the order of `VOTES`.
    Returns:
        (N,) int64, the number of the column with more than half of the votes, without single votes; -1 if no column
        has that many, or it is unknown or not a face.
    Source: Barsoum et al. 2016 (arXiv 1608.01041), majority voting, as in the authors' FERPlus code.
    """
    kept = np.where(votes > OUTLIER_VOTES, votes, 0)
    best = kept.argmax(axis=1)
    clear = kept.max(axis=1) > 0.5 * kept.sum(axis=1)
    return np.where(clear & (best < len(FERPLUS_VOTES)), best, -1)


def shares(votes: np.ndarray) -> np.ndarray:
    """The shares (N, 8) float64 of the expressions among the votes for an expression, without single votes.

    All expressions with two votes or more count. FER+'s own probability mode keeps the three largest and may drop
    the picture. Rows without such votes are 0.
    """
    kept = np.where(votes > OUTLIER_VOTES, votes, 0)[:, : len(FERPLUS_VOTES)].astype(np.float64)
    total = kept.sum(axis=1, keepdims=True)
    return np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)


def _csv_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() == ".csv" else None
    return layout.child(path, *CSV_NAMES, *(f"fer2013/{name}" for name in CSV_NAMES))


def _zip_parts(path: Path) -> list[tuple[Path, Path]]:
    """Zip and CSV of each part of the zip form."""
    found = [(layout.child(path, f"{part}.zip"), layout.child(path, f"{part}.csv")) for part in ZIPS]
    return [(packed, table) for packed, table in found if packed is not None and table is not None]


def _table(file: Path, columns: set[str]) -> pd.DataFrame:
    """A CSV as text, with names and cells stripped, without the column of pixels; row i is line i + 2."""
    table = pd.read_csv(
        file, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True,
        usecols=lambda name: name.strip() != "pixels",
    )  # fmt: skip
    missing = columns - set(table.columns)
    if missing:
        raise UserError(f"{file} lacks the column {', '.join(sorted(missing))}; it has {', '.join(table.columns)}")
    return table.apply(lambda column: column.fillna("").str.strip())


def _check(file: Path, wrong: pd.Series, expected: str, got: pd.DataFrame) -> None:
    """Raise a UserError for the first line that is wrong."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{file} line {row + 2}: expected {expected}, got '{' '.join(got.iloc[row])}'; is the download complete?"
        )


def _read_csv(file: Path, ferplus: bool) -> pd.DataFrame:
    cells = _table(file, {"emotion", "Usage"})
    wrong = ~cells["emotion"].isin(CODES) | ~cells["Usage"].isin(USAGES)
    _check(file, wrong, f"an emotion from 0 to 6 and one of {', '.join(USAGES)}", cells[["emotion", "Usage"]])
    names = [f"fer{number:07d}.png" for number in range(len(cells))]
    labels, splits = cells["emotion"].map(CODES), cells["Usage"].map(USAGES)
    table = pd.DataFrame({"image": names, "label": labels, "split": splits})
    if not ferplus:
        return table
    votes_file = layout.child(file.parent, VOTES_NAME)
    if votes_file is None:
        raise UserError(f"labels=ferplus needs FER+'s file {VOTES_NAME} beside {file}; see fn2en data how-to fer2013")
    votes = _table(votes_file, {"Usage", "Image name", *VOTES})
    if len(votes) != len(table):
        raise UserError(f"{votes_file} has {len(votes)} lines, {file.name} {len(table)} pictures; is one cut off?")
    wrong = (votes["Image name"] != "") & (votes["Image name"] != table["image"])
    wrong |= votes["Usage"] != cells["Usage"]
    _check(votes_file, wrong, f"the same pictures as in {file.name}", votes[["Usage", "Image name"]])
    return table.join(_votes(votes_file, votes, VOTES))


def _votes(file: Path, cells: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The votes (N, 10) as numbers, in the columns `VOTES`."""
    votes = cells[list(columns)]
    _check(file, ~votes.map(str.isdecimal).all(axis=1), "ten numbers of votes", votes)
    return votes.astype(np.int64).set_axis(list(VOTES), axis=1)


def _read_zips(path: Path, notes: list[str]) -> pd.DataFrame:
    tables = []
    columns = tuple(f"fp_{name}" for name in VOTES)
    for packed, file in _zip_parts(path):
        cells = _table(file, {"image", "usage", "fer2013_label", *columns})
        labels = cells["fer2013_label"].map(lambda name: canonical(name) if name else "")
        wrong = labels.isna() | ~cells["usage"].isin(USAGES)
        _check(file, wrong, "an expression and a part of FER2013", cells[["fer2013_label", "usage"]])
        table = pd.DataFrame({"image": cells["image"], "label": labels, "split": cells["usage"].map(USAGES)})
        inside = table["image"].isin(_open_zip(packed).namelist())
        if not inside.all():
            notes.append(f"{(~inside).sum()} pictures of {file.name} are not in {packed.name}.")
        tables.append(table.join(_votes(file, cells, columns))[inside])
    return pd.concat(tables, ignore_index=True)


def _read_folders(path: Path, labels: str) -> Manifest:
    """The form train/angry/…, test/angry/…, in which PublicTest and PrivateTest are one part."""
    if labels == "ferplus":
        raise UserError(f"{path}: folders of pictures can't be joined with FER+; use fer2013.csv and {VOTES_NAME}")
    manifest = from_folder(path)
    table = manifest.table.assign(label=manifest.table["label"].map(canonical))
    unknown = sorted(set(manifest.table["label"][table["label"].isna()]))
    if unknown:
        raise UserError(f"{path}: the folders {', '.join(unknown)} are no expressions of FER2013")
    notes = ("Pictures were read from folders, in which PublicTest and PrivateTest are one part.",)
    return Manifest(table, path, name="fer2013", notes=notes)


def _pictures_of_csv(file: Path) -> Iterator[tuple[str, bytes]]:
    number = 0
    for chunk in pd.read_csv(file, dtype=str, keep_default_na=False, chunksize=1000):
        for text in chunk.rename(columns=str.strip)["pixels"]:
            pixels = np.array(str(text).split(), np.int64)
            if pixels.size != SIDE_PX**2 or pixels.min() < 0 or pixels.max() > 255:
                raise UserError(
                    f"{file} line {number + 2}: expected {SIDE_PX**2} pixels from 0 to 255, got {pixels.size}"
                )
            yield f"fer{number:07d}.png", png_bytes(pixels.astype(np.uint8).reshape(SIDE_PX, SIDE_PX))
            number += 1


def _pictures_of_zips(path: Path) -> Iterator[tuple[str, bytes]]:
    for packed, _ in _zip_parts(path):
        with _open_zip(packed) as opened:
            yield from ((name, opened.read(name)) for name in opened.namelist() if name.lower().endswith(".png"))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as fault:
        raise UserError(f"{path} can't be read as a zip: {fault}; is the download complete?") from fault


SOURCE = Source(
    name="fer2013",
    title="FER2013, with FER+ labels if its file is beside it",
    reader=read,
    options={
        "labels": "fer2013 (the competition's) or ferplus (FER+'s majority and vote shares)",
        "unlabelled": "drop or keep the pictures without a label, which are never tested",
    },
    pictures=pictures,
)
