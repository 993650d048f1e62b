"""The manifest: the table of pictures that everything else starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.table import (
    COLUMNS,
    SPLITS,
    as_text,
    check_columns,
    check_rows,
    raise_faults,
    read_table,
    split_name,
)
from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path, read_json, write_json
from facenet2expnet.labels import in_canonical_order

if TYPE_CHECKING:
    import pandas as pd

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")

FORMAT = "facenet2expnet-manifest-1"


@dataclass(frozen=True, eq=False)
class Manifest:
    """Pictures with their labels and whatever else is known about them.

    The table is checked when a manifest is constructed. `rows` selects from it without checking again.

    Attributes:
        table: one row per picture, RangeIndex. `image` is the path relative to `root` with forward slashes,
            `label` a class name or "" for a picture without a label. Subject, sequence, split and fold are
            text, "" where unknown. Rows with 1 in an optional column `train_only` are never tested.
        root: the folder that `image` is relative to.
        classes: class names in the order of the network's outputs; by default the labels found, in canonical
            order.
        name: the name of the data in reports.
        contract: how the faces were cropped and aligned; None for original pictures.
        notes: sentences about what was left out, and why.
        place: names a row in error messages, as "labels.csv line 4"; not kept.
    Raises:
        UserError: If a column is missing, a picture is in two rows, or a label is not a class.
    """

    table: pd.DataFrame
    root: Path
    classes: tuple[str, ...] = ()
    name: str = "data"
    contract: CropContract | None = None
    notes: tuple[str, ...] = ()
    place: InitVar[Callable[[int], str] | None] = None

    def __post_init__(self, place: Callable[[int], str] | None) -> None:
        check_columns(self.table, f"manifest '{self.name}'")
        table = self.table.reset_index(drop=True)
        for column in set(COLUMNS) & set(table.columns):
            table[column] = as_text(table[column])
        classes = tuple(self.classes) or in_canonical_order(label for label in table["label"] if label)
        check_rows(table, place or (lambda row: f"manifest '{self.name}' row {row}"), classes)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> np.ndarray:
        """Class numbers (N,), int64, as indices into `classes`; -1 for a picture without a label."""
        import pandas as pd

        return pd.Index(self.classes, dtype=object).get_indexer(pd.Index(self.table["label"])).astype(np.int64)

    @property
    def votes(self) -> np.ndarray | None:
        """Shares of the raters' votes (N, K) float32 from the columns `p_<class>`; None if one of them is missing.

        Rows sum to 1, or to 0 where there are no votes.
        """
        import pandas as pd

        columns = [f"p_{name}" for name in self.classes]
        if not columns or not set(columns) <= set(self.table.columns):
            return None
        shares = self.table[columns].apply(pd.to_numeric, errors="coerce").fillna(0.0).to_numpy(np.float32).clip(0)
        return shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)

    @property
    def subjects(self) -> np.ndarray | None:
        """Subject names (N,) of dtype object, "" where one is unknown; None if none is known."""
        return self._known("subject")

    @property
    def sequences(self) -> np.ndarray | None:
        """Sequence names (N,) of dtype object, "" where unknown; None if none is known.

        A sequence name is unique within its subject only: sequence 1 of S5 is not sequence 1 of S10.
        """
        return self._known("sequence")

    @property
    def groups(self) -> np.ndarray:
        """Numbers (N,) int64 of what must stay together: the subject, else the sequence, else the row itself."""
        import pandas as pd

        count, subjects, sequences = len(self), self.subjects, self.sequences
        ids = np.arange(2 * count, 3 * count)
        if sequences is not None:
            ids = np.where(sequences != "", count + pd.factorize(sequences)[0], ids)
        if subjects is not None:
            ids = np.where(subjects != "", pd.factorize(subjects)[0], ids)
        return pd.factorize(ids)[0].astype(np.int64)

    @property
    def train_only(self) -> np.ndarray:
        """A mask (N,) of train-only rows: those with 1, true or yes in the column `train_only`."""
        if "train_only" not in self.table.columns:
            return np.zeros(len(self), bool)
        texts = self.table["train_only"].astype(str).str.strip().str.lower()
        return texts.isin(("1", "1.0", "true", "yes")).to_numpy(dtype=bool)

    @property
    def paths(self) -> list[Path]:
        """The picture files."""
        return [self.root / image for image in self.table["image"]]

    @property
    def counts(self) -> dict[str, int]:
        """Class name -> number of pictures, in the order of `classes`."""
        found = self.table["label"].value_counts()
        return {name: int(found.get(name, 0)) for name in self.classes}

    def sha256(self) -> str:
        """The hash of the table and the classes; it does not depend on the root folder."""
        names = [c for c in COLUMNS if c in self.table.columns]
        names += sorted(c for c in map(str, self.table.columns) if c not in COLUMNS)
        text = json.dumps(self.classes) + "\n" + self.table[names].to_csv(index=False, lineterminator="\n")
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def rows(self, indices: Sequence[int] | np.ndarray) -> Manifest:
        """Select rows by their numbers, each at most once, in the order given, or by a mask of N truth values."""
        selected = object.__new__(Manifest)  # the rows are checked already
        table = self.table.iloc[np.asarray(indices)].reset_index(drop=True)
        vars(selected).update(vars(self) | {"table": table})
        return selected

    def save(self, path: Path) -> None:
        """Write the table (.csv or .parquet) and, beside it, NAME.json with root, classes, contract and name.

        The root is written relative to the file if it is the same folder or below it, absolute otherwise.
        """
        path = Path(path)
        with atomic_path(path) as temporary:
            if path.suffix.lower() == ".parquet":
                self.table.to_parquet(temporary, index=False)
            else:
                self.table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
        root, folder = self.root.resolve(), path.resolve().parent
        metadata = {
            "format": FORMAT,
            "name": self.name,
            "root": root.relative_to(folder).as_posix() if root.is_relative_to(folder) else root.as_posix(),
            "classes": list(self.classes),
            "contract": None if self.contract is None else self.contract.to_dict(),
            "notes": list(self.notes),
            "sha256": self.sha256(),
        }
        write_json(path.with_suffix(".json"), metadata)

    def _known(self, column: str) -> np.ndarray | None:
        if column not in self.table.columns or not (self.table[column] != "").any():
            return None
        return self.table[column].to_numpy(dtype=object)


def read_manifest(path: Path, *, classes: Sequence[str] | None = None, need_pictures: bool = True) -> Manifest:
    """Read a manifest from a CSV or Parquet table, or from a folder.

    A NAME.json beside a table, as `Manifest.save` writes it, gives root, classes, contract and name. Without it,
    `image` is relative to the table's folder, or absolute. A folder with a saved `manifest.csv` or
    `manifest.parquet` is read from that table; any other folder is read as class folders.

    Args:
        path: the table or folder.
        classes: the allowed class names in the order of the network's outputs; by default those found.
        need_pictures: raise an error if none of the pictures exists; a face store does not need them.
    Raises:
        UserError: All faults in one message, with line numbers and the nearest class to an unknown label.
    """
    path = Path(path)
    if os.path.isdir(path):
        saved = [path / "manifest.csv", path / "manifest.parquet"]
        table_path = next((p for p in saved if p.is_file() and p.with_suffix(".json").is_file()), None)
        if table_path is None:
            return from_folder(path, classes)
        path = table_path
    check_exists(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{path}: a manifest ends in .csv or .parquet; or give a folder of class folders")
    beside = path.with_suffix(".json")
    metadata = read_json(beside) if beside.is_file() else {}
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:  # a file of something else
        metadata = {}
    table, lines = read_table(path)
    if not len(table):
        raise UserError(f"{path} has no rows; expected one line per picture below the header")
    if not metadata:  # forward slashes and no detours, so that each picture has one name
        images = as_text(table["image"])
        table["image"] = [posixpath.normpath(image.replace("\\", "/")) if image else "" for image in images]
    if "split" in table.columns:
        table["split"] = as_text(table["split"]).map(split_name)
    own_name = path.stem if path.stem != "manifest" else path.resolve().parent.name or path.stem
    manifest = Manifest(
        table,
        path.parent / metadata.get("root", ""),
        tuple(metadata.get("classes", ()) if classes is None else classes),
        name=metadata.get("name", own_name),
        contract=CropContract.from_dict(metadata["contract"]) if metadata.get("contract") else None,
        notes=tuple(metadata.get("notes", ())),
        place=lambda row: f"{path.name} line {lines[row]}",
    )
    if need_pictures and not any(os.path.exists(picture) for picture in manifest.paths):
        raise UserError(
            f"{path}: none of its {len(table)} pictures was found; the first one was expected at "
            f"{manifest.paths[0]}; the column image is relative to the folder of the table"
            + (f" (root in {beside.name})" if metadata else "")
        )
    return manifest


def from_folder(folder: Path, classes: Sequence[str] | None = None) -> Manifest:
    """Read a folder of class folders; the folder's name is the class, and pictures may be deeper inside it.

    A folder of `train`, `test` (and `valid`) folders that hold class folders gives the column `split`.

    Raises:
        UserError: If there is no such folder, no picture, no class folder, a class folder without a picture, or
            a class that is not allowed.
    """
    folder = Path(folder)
    check_exists(folder)
    pictures = find_pictures(folder)
    parts = [path.relative_to(folder).parts for path in pictures]
    import pandas as pd

    tops, loose = {names[0] for names in parts}, [names[0] for names in parts if len(names) == 1]
    if len(loose) == len(parts):
        raise UserError(
            f"{folder} holds {len(loose) or 'no'} pictures and no class folders; put the pictures of each class "
            f"({', '.join(PICTURE_ENDINGS)}) into a folder with its name, or give a CSV with the columns image,label"
        )
    empty = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name) and p.name not in tops)
    raise_faults(
        [f"{folder / name} is outside the class folders; move it into one" for name in loose]
        + [f"{folder / name} holds no pictures; add some or remove the folder" for name in empty]
    )
    by_split = all(split_name(top) in SPLITS for top in tops) and all(len(names) > 2 for names in parts)
    labels = [unicodedata.normalize("NFC", names[1 if by_split else 0]) for names in parts]
    table = pd.DataFrame({"image": ["/".join(names) for names in parts], "label": labels}, dtype=object)
    if by_split:
        table["split"] = [split_name(names[0]) for names in parts]
    shown = [os.fsencode(picture).decode("utf-8", "backslashreplace") for picture in pictures]
    return Manifest(table, folder, tuple(classes or ()), folder.resolve().name or "data", place=lambda row: shown[row])


def with_train_only(manifest: Manifest, added: Manifest) -> Manifest:
    """Append another manifest's labelled rows as train-only rows, as the paper adds FER2013 to SFEW.

    Train-only rows join every training part and are never tested or validated on. Rows without a label, or of a
    class that `manifest` does not have, are left out and counted in the notes. Their subjects and sequences get
    the added set's name as a prefix, because IDs of two datasets are unrelated.

    Raises:
        UserError: If no row is left, or the faces were prepared in different ways.
    Source: FN2EN, section IV-F and Table VI (SFEW with FER2013).
    """
    import pandas as pd

    if manifest.contract != added.contract:
        ways = f"were prepared in different ways ({manifest.contract} and {added.contract})"
        raise UserError(f"'{manifest.name}' and '{added.name}' {ways}; prepare both with the same options")
    more = added.table[added.table["label"].isin(manifest.classes)].copy()
    if not len(more):
        wanted = ", ".join(manifest.classes)
        raise UserError(f"'{added.name}' has no picture of the classes of '{manifest.name}' ({wanted})")
    more["image"] = [Path(os.path.relpath(added.root / image, manifest.root)).as_posix() for image in more["image"]]
    for column in {"subject", "sequence"} & set(more.columns):
        more[column] = [f"{added.name}:{name}" if name else "" for name in more[column]]
    main = manifest.table.assign(train_only=manifest.train_only.astype(int))
    more = more.assign(train_only=1, split="train")
    kept = [c for c in more.columns if c in main.columns or c in ("subject", "sequence")]
    notes = [f"{len(more)} pictures of '{added.name}' are used for training only."]
    if len(more) < len(added):
        notes.append(f"{len(added) - len(more)} of its pictures have no label or another class and were left out.")
    return dataclasses.replace(
        manifest,
        table=pd.concat([main, more[kept]], ignore_index=True),
        name=f"{manifest.name}+{added.name}",
        notes=(*manifest.notes, *added.notes, *notes),
    )


def natural_key(name: str) -> tuple[Any, ...]:
    """A sort key that compares numbers inside names as numbers: S2 before S10."""
    parts = re.split(r"([0-9]+)", name)
    key = tuple((len(p.lstrip("0")), p.lstrip("0")) if number % 2 else p.casefold() for number, p in enumerate(parts))
    return (key, name)


def find_pictures(folder: Path, endings: tuple[str, ...] = PICTURE_ENDINGS) -> list[Path]:
    """All files with these endings in a folder and below it, in natural order, without hidden files and folders.

    Raises:
        UserError: If a folder can't be read.
    """

    def refuse(fault: OSError) -> None:
        raise UserError(f"{fault.filename} can't be read: {fault.strerror}; give yourself read permission")

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(parent, name) for name in files if name.lower().endswith(endings) and not is_hidden(name)]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by macOS in a zip."""
    return name.startswith(".") or name == "__MACOSX"


def check_exists(path: Path) -> None:
    """Raise a UserError if there is no such file or folder."""
    if not os.path.exists(path):
        parent = next((p for p in Path(path).absolute().parents if os.path.isdir(p)), None)
        raise UserError(f"{path} was not found; the nearest folder that exists is {parent}")
