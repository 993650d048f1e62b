"""The manifest: the table of pictures, from which everything else starts."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.labels import in_canonical_order, nearest

COLUMNS = ("image", "label", "subject", "sequence", "frame", "split", "fold")
"""`image` and `label` are needed, the others are absent when unknown; further columns are kept."""

SPLITS = ("train", "valid", "test")

SPLIT_SPELLINGS = {
    "training": "train",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "testing": "test",
}

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

FORMAT = "facenet2expnet-manifest-1"
FAULTS_SHOWN = 10

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,14})")


@dataclass(frozen=True, eq=False)
class Manifest:
    """Pictures with their labels and whatever else is known about them.

    Attributes:
        table: one row a picture, RangeIndex. `image` is the path relative to `root` with forward slashes,
            `label` a class name or "" where the picture has none. Subject, sequence, split and fold are
            text, "" where unknown.
        root: the folder that `image` starts from.
        classes: class names in the order of the network's outputs; by default the labels found, in canonical
            order.
        name: what the data is called in reports.
        contract: how the faces were made ready; None for pictures as they came.
        notes: plain sentences about what was left out on the way here, and why.
    Raises:
        UserError: If a column is missing, a picture stands in two rows, or a label is no class.
    """

    table: pd.DataFrame
    root: Path
    classes: tuple[str, ...] = ()
    name: str = "data"
    contract: CropContract | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = [column for column in COLUMNS[:2] if column not in self.table.columns]
        if missing:
            raise UserError(f"manifest '{self.name}' has no column {' and no column '.join(missing)}")
        table = self.table.reset_index(drop=True).copy()
        for column in COLUMNS:
            if column in table.columns:
                table[column] = _as_text(table[column])
        classes = tuple(self.classes) or in_canonical_order(label for label in table["label"] if label)
        where = [f"manifest '{self.name}' row {i}" for i in range(len(table))]
        _raise_faults(_faults(table, where, classes))
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """Class numbers (N,), int64, as indices into `classes`; -1 where a picture has no label."""
        codes = {name: number for number, name in enumerate(self.classes)}
        return np.fromiter((codes.get(label, -1) for label in self.table["label"]), np.int64, len(self))

    @property
    def subjects(self) -> np.ndarray | None:
        """Subject names (N,) of dtype object, "" where one is unknown; None if none is known."""
        return self._known("subject")

    @property
    def sequences(self) -> np.ndarray | None:
        """Sequence names (N,) of dtype object, "" where unknown; None if none is known.

        A sequence's name counts within its subject: sequence 1 of S5 is not sequence 1 of S10.
        """
        return self._known("sequence")

    @property
    def paths(self) -> list[Path]:
        """The pictures' files."""
        return [self.root / image for image in self.table["image"]]

    @property
    def counts(self) -> dict[str, int]:
        """Class name -> number of pictures, in the order of `classes`."""
        found = self.table["label"].value_counts()
        return {name: int(found.get(name, 0)) for name in self.classes}

    def sha256(self) -> str:
        """The hash of the table and the classes; the same wherever the pictures lie."""
        names = [c for c in COLUMNS if c in self.table.columns]
        names += sorted(c for c in map(str, self.table.columns) if c not in COLUMNS)
        text = json.dumps(self.classes) + "\n" + _to_csv(self.table[names])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def rows(self, indices: Sequence[int] | np.ndarray) -> Manifest:
        """The rows with these numbers, or where a mask of N truth values holds, in the order given."""
        return dataclasses.replace(self, table=self.table.iloc[np.asarray(indices)])

    def save(self, path: Path) -> None:
        """Write the table (.csv or .parquet) and, beside it, NAME.json with root, classes, contract and name.

        The root is written relative to the file if it lies in the same folder or below, absolute otherwise.
        """
        path = Path(path)
        _check_ending(path)
        if path.suffix.lower() == ".csv":
            content = _to_csv(self.table).encode("utf-8")
        else:
            buffer = io.BytesIO()
            self.table.to_parquet(buffer, index=False)
            content = buffer.getvalue()
        root, folder = self.root.resolve(), path.resolve().parent
        about = {
            "format": FORMAT,
            "name": self.name,
            "root": root.relative_to(folder).as_posix() if root.is_relative_to(folder) else root.as_posix(),
            "classes": list(self.classes),
            "contract": None if self.contract is None else self.contract.to_dict(),
            "notes": list(self.notes),
            "sha256": self.sha256(),
        }
        write_atomic(path, content)
        write_atomic(
            path.with_suffix(".json"), (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
        )

    def _known(self, column: str) -> np.ndarray | None:
        if column not in self.table.columns or not (self.table[column] != "").any():
            return None
        return self.table[column].to_numpy(dtype=object)


def natural_key(name: str) -> tuple[Any, ...]:
    """A sort key in which numbers inside a name count as numbers: S2 before S10."""
    parts = re.split(r"([0-9]+)", name)
    key = tuple(
        (len(p.lstrip("0")), p.lstrip("0")) if number % 2 else p.casefold() for number, p in enumerate(parts)
    )
    return (key, name)


def find_pictures(folder: Path) -> list[Path]:
    """All pictures in a folder and below it, in natural order; hidden files and folders are passed over.

    Raises:
        UserError: If a folder can't be read.
    """

    def refuse(fault: OSError) -> None:
        raise UserError(f"{fault.filename} can't be read: {fault.strerror}; give yourself read permission")

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [Path(parent, name) for name in files if is_picture_name(name)]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def is_picture_name(name: str) -> bool:
    """Whether a file name ends like a picture's; what macOS leaves behind (`._x.jpg`) does not count."""
    return not _is_hidden(name) and name.lower().endswith(PICTURE_ENDINGS)


def need_folder(folder: Path) -> Path:
    """The folder itself, if it is there and can be read.

    Raises:
        UserError: If it is missing, a file, or closed to us.
    """
    folder = Path(folder)
    try:
        there = folder.exists()
    except PermissionError as fault:
        raise UserError(f"{folder} can't be reached: no permission for a folder above it") from fault
    if not there:
        parent = next((p for p in folder.absolute().parents if os.path.isdir(p)), None)
        raise UserError(f"{folder} was not found; the nearest folder that exists is {parent}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; a folder was expected")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder} can't be read: no permission; give yourself read permission")
    return folder


def from_folder(folder: Path) -> Manifest:
    """A manifest of a folder of class folders; a class is named as its folder, its pictures may lie deeper.

    A folder of `train` and `test` (and `valid`) folders that hold class folders gives the column `split`.

    Raises:
        UserError: If there is no such folder, no picture, no class folder, or a class folder without a
            picture.
    """
    folder = need_folder(folder)
    pictures = find_pictures(folder)
    endings = ", ".join(PICTURE_ENDINGS)
    if not pictures:
        raise UserError(
            f"{folder} holds no pictures; expected one folder a class with pictures inside ({endings})"
        )
    parts = [path.relative_to(folder).parts for path in pictures]
    loose = [names[0] for names in parts if len(names) == 1]
    if len(loose) == len(parts):
        raise UserError(
            f"{folder} holds {len(loose)} pictures but no class folders; put the pictures of each class "
            f"into a folder named as the class, or give a CSV with the columns image,label"
        )
    _raise_faults(
        [f"{folder / name} lies outside the class folders; move it into one" for name in loose]
        + [f"{str(path)!a} has a name that is not UTF-8; rename it" for path in pictures if _odd(path)]
        + _empty_class_folders(folder, {names[0] for names in parts})
    )
    tops = {names[0] for names in parts}
    by_split = all(_split_name(top) in SPLITS for top in tops) and all(len(names) > 2 for names in parts)
    table = pd.DataFrame(
        {
            "image": ["/".join(names) for names in parts],
            "label": [unicodedata.normalize("NFC", names[1 if by_split else 0]) for names in parts],
        }
    )
    if by_split:
        table["split"] = [_split_name(names[0]) for names in parts]
    return Manifest(table, folder, name=folder.resolve().name or "data")


def read_manifest(
    path: Path, *, classes: Sequence[str] | None = None, need_pictures: bool = True
) -> Manifest:
    """A manifest from a CSV or Parquet table, or from a folder.

    The NAME.json beside a table is honoured; without one, `image` starts from the table's own folder and
    absolute paths stay. A folder with a `manifest.csv` or `manifest.parquet` that was saved by us is
    read from there, any other is taken as a folder of class folders.

    Args:
        path: the table or folder.
        classes: the class names that are allowed, in the order of the network's outputs; by default those
            found.
        need_pictures: refuse a table none of whose pictures is there; a face store does without them.
    Raises:
        UserError: All faults in one message, with line numbers and the nearest class to an unknown label.
    """
    path = Path(path)
    if os.path.isdir(path):
        saved = [path / "manifest.csv", path / "manifest.parquet"]
        table_path = next((p for p in saved if p.is_file() and p.with_suffix(".json").is_file()), None)
        if table_path is None:
            manifest = from_folder(path)
            if classes is None:
                return manifest
            where = [f"{path / image}" for image in manifest.table["image"]]
            _raise_faults(_faults(manifest.table, where, tuple(classes)))
            return dataclasses.replace(manifest, classes=tuple(classes))
        path = table_path
    if not os.path.exists(path):
        need_folder(path)
    _check_ending(path)
    about = _read_about(path.with_suffix(".json"))
    try:
        table, lines = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except PermissionError as fault:
        raise UserError(f"{path} can't be read: no permission; give yourself read permission") from fault
    if about is None:
        table["image"] = [_tidy_image(image) for image in table["image"]]
    if "split" in table.columns:
        table["split"] = [_split_name(split) for split in table["split"]]
    names = tuple(classes) if classes is not None else tuple(about["classes"]) if about else ()
    where = [f"{path.name} line {line}" for line in lines]
    _raise_faults(_faults(table, where, names))
    if not len(table):
        raise UserError(f"{path} has no rows; expected one line a picture below the header")
    root = path.parent if about is None else path.parent / about["root"]
    if need_pictures and not any(os.path.exists(root / image) for image in table["image"]):
        raise UserError(
            f"{path}: none of its {len(table)} pictures was found; the first one was looked for at "
            f"{root / table['image'].iloc[0]}; the column image counts from the folder of the table"
            + (f" (root in {path.with_suffix('.json').name})" if about else "")
        )
    contract = about["contract"] if about else None
    return Manifest(
        table,
        root,
        names,
        name=about["name"] if about else _name(path),
        contract=None if contract is None else CropContract.from_dict(contract),
        notes=tuple(about.get("notes", ())) if about else (),
    )


def _name(path: Path) -> str:
    """A table's own name; that of its folder where it is called no more than "manifest"."""
    return path.stem if path.stem != "manifest" else path.resolve().parent.name or path.stem


def _faults(table: pd.DataFrame, where: Sequence[str], classes: tuple[str, ...]) -> Iterator[str]:
    """Every fault of a table's rows, in plain words; `where` names each row."""
    first_row: dict[str, int] = {}
    splits = table["split"] if "split" in table.columns else [""] * len(table)
    for row, (image, label, split) in enumerate(zip(table["image"], table["label"], splits, strict=True)):
        if not image:
            yield f"{where[row]}: the column image is empty; expected the path of a picture"
        elif image in first_row:
            earlier = where[first_row[image]].rsplit(" ", 2)
            yield f"{where[row]}: '{image}' stands already in {' '.join(earlier[-2:])}; keep one of the two"
        else:
            first_row[image] = row
        if _CONTROL.search(image + label):
            yield f"{where[row]}: {image!r}, {label!r} holds a line break or control character; take it out"
        if label and classes and label not in classes:
            yield f"{where[row]}: class '{label}' is not one of {', '.join(classes)}" + _guess(label, classes)
        if split and split not in SPLITS:
            yield f"{where[row]}: split '{split}' is not one of {', '.join(SPLITS)}" + _guess(split, SPLITS)
    if len(set(classes)) < len(classes):
        yield f"the classes {', '.join(classes)} name one class twice"


def _raise_faults(faults: Iterator[str] | list[str]) -> None:
    found = list(faults)
    if found:
        more = len(found) - FAULTS_SHOWN
        raise UserError("\n".join(found[:FAULTS_SHOWN]) + (f"\n… and {more} more" if more > 0 else ""))


def _guess(name: str, known: Sequence[str]) -> str:
    match = nearest(name, known)
    return f"; did you mean '{match}'?" if match else ""


def _read_csv(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """A CSV (commas, semicolons or tabs) as text, and the line on which each row ends; no blank lines."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise UserError(f"{path} line {line} is not UTF-8; save the table as 'CSV UTF-8'") from fault
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header: list[str] = []
    cells, lines, faults = [], [], []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                faults.append(
                    f"{path.name} line {reader.line_num}: expected {len(header)} cells "
                    f"({', '.join(header)}), got {len(row)}"
                )
            else:
                cells.append(row)
                lines.append(reader.line_num)
    except csv.Error as fault:
        raise UserError(f"{path} line {reader.line_num} can't be read as CSV: {fault}") from fault
    _check_header(path, header)
    _raise_faults(faults)
    table = pd.DataFrame(cells, columns=header, dtype=object)
    for column in header:
        if column in COLUMNS:
            table[column] = _as_text(table[column])
        else:
            table[column] = _numbers_where_plain(table[column])
    return table, lines


def _read_parquet(path: Path) -> tuple[pd.DataFrame, list[int]]:
    try:
        table = pd.read_parquet(path)
    except PermissionError:
        raise
    except Exception as fault:
        raise UserError(f"{path} can't be read as Parquet: {fault}") from fault
    _check_header(path, [str(column) for column in table.columns])
    for column in table.columns:
        if column in COLUMNS:
            table[column] = _as_text(table[column])
    return table.reset_index(drop=True), list(range(1, len(table) + 1))


def _check_header(path: Path, header: list[str]) -> None:
    missing = [column for column in COLUMNS[:2] if column not in header]
    if missing:
        guesses = "".join(_guess_column(column, header) for column in missing)
        raise UserError(
            f"{path} has no column {' and no column '.join(missing)}; its first line says "
            f"{', '.join(header) or 'nothing'}{guesses}; expected at least image,label"
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise UserError(f"{path} has the column {', '.join(twice)} twice; rename or remove one")


def _guess_column(column: str, header: list[str]) -> str:
    others = {
        "image": ("path", "file", "filename", "picture", "img"),
        "label": ("class", "emotion", "expression"),
    }
    wanted = (column, *others[column])
    match = next((name for name in header if name.lower().rstrip("s") in wanted), None)
    return f"; is '{match}' the {column}? Then rename it" if match else ""


def _check_ending(path: Path) -> None:
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{path}: a manifest ends in .csv or .parquet; or give a folder of class folders")


def _read_about(path: Path) -> dict[str, Any] | None:
    """What NAME.json says, or None where there is none of ours beside the table."""
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} can't be read as JSON: {fault}; restore it, or remove it") from fault
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        return None
    missing = [key for key in ("root", "classes", "contract", "name") if key not in about]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; prepare the data again, or remove the file")
    return about


def _as_text(column: pd.Series) -> pd.Series:
    """Plain text with "" for what is missing; whole numbers that pandas holds as floats lose their `.0`."""
    if pd.api.types.is_float_dtype(column):
        texts = ["" if pd.isna(v) else str(int(v)) if v == int(v) else str(v) for v in column]
    else:
        texts = ["" if pd.isna(v) else v.strip() if isinstance(v, str) else str(v) for v in column]
    return pd.Series(texts, dtype=object)


def _numbers_where_plain(column: pd.Series) -> pd.Series:
    """A column of plain numbers as numbers, any other as text: 007 stays text."""
    values = list(column)
    filled = [value for value in values if value]
    if filled and all(_WHOLE.fullmatch(value) for value in values):
        return pd.Series([int(value) for value in values], dtype="int64")
    if filled and all(_NUMBER.fullmatch(value) for value in filled):
        return pd.Series([float(value) if value else np.nan for value in values], dtype="float64")
    return column


def _to_csv(table: pd.DataFrame) -> str:
    text = table.to_csv(index=False, lineterminator="\n")
    assert isinstance(text, str)
    return text


def _tidy_image(image: str) -> str:
    """Forward slashes and no detours, so that one picture has one name."""
    return posixpath.normpath(image.replace("\\", "/")) if image else ""


def _split_name(name: str) -> str:
    lowered = name.strip().lower()
    lowered = SPLIT_SPELLINGS.get(lowered, lowered)
    return lowered if lowered in SPLITS else name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _odd(path: Path) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in path.as_posix())


def _empty_class_folders(folder: Path, filled: set[str]) -> list[str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))
    return [
        f"{folder / name} holds no pictures; add some or remove the folder"
        for name in names
        if name not in filled
    ]
