"""The manifest: the table of pictures that everything else starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.table import (
    COLUMNS,
    as_text,
    check_columns,
    check_rows,
    is_split_column,
    read_csv,
    read_table,
    split_name,
    tidy_columns,
)
from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path, read_json, well_formed, write_json
from facenet2expnet.labels import in_canonical_order, tidy

if TYPE_CHECKING:
    import pandas as pd

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


def read_manifest(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    need_pictures: bool = True,
    merge_labels: str | Path | Mapping[str, str] = "",
) -> Manifest:
    """Read a manifest from a CSV or Parquet table, or from a folder.

    A NAME.json beside a table, as `Manifest.save` writes it, gives root, classes, contract and name. Without it,
    `image` is relative to the table's folder, or absolute, columns may have other spellings (see `table.tidy_columns`),
    and labels are tidied (see `labels.tidy`). A folder with a saved `manifest.csv` or `manifest.parquet` is read from
    that table; any other folder is read as class folders.

    Args:
        path: the table or folder.
        classes: the allowed class names in the order of the network's outputs; by default those found.
        need_pictures: raise an error if none of the pictures exists; a face store does not need them.
        merge_labels: "auto" to make one class of labels that look like one, such as happy and happiness; or a CSV file
            with the columns from,to, or a dictionary, of labels to rename.
    Raises:
        UserError: All faults in one message, with line numbers and the nearest class to an unknown label.
    """
    from facenet2expnet.data.folders import from_folder

    path, merge = Path(path), _renaming(merge_labels)
    if os.path.isdir(path):
        saved = [path / "manifest.csv", path / "manifest.parquet"]
        table_path = next((p for p in saved if p.is_file() and p.with_suffix(".json").is_file()), None)
        if table_path is None:
            return from_folder(path, classes, merge)
        path = table_path
    check_exists(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{path}: a manifest ends in .csv or .parquet; or give a folder of class folders")
    beside = path.with_suffix(".json")
    metadata = read_json(beside) if beside.is_file() else {}
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:  # a file of something else
        metadata = {}
    _check_metadata(metadata, beside)
    table, lines = read_table(path, spelling=not metadata)
    if not len(table):
        raise UserError(f"{path} has no rows; expected one line per picture below the header")
    allowed = tuple(metadata.get("classes", ()) if classes is None else classes)
    notes = list(metadata.get("notes", ()))
    if not metadata or merge:
        table, more = tidy_values(table, () if merge and classes is None else allowed, merge)
        notes += more
        if merge and classes is None:
            allowed = tuple(name for name in allowed if name in set(table["label"]))
    with well_formed(beside, f"delete it to read {path.name} as a table of your own"):
        contract = CropContract.from_dict(metadata["contract"]) if metadata.get("contract") else None
    own_name = path.stem if path.stem != "manifest" else path.resolve().parent.name or path.stem
    manifest = Manifest(
        table,
        path.parent / metadata.get("root", ""),
        allowed,
        name=metadata.get("name", own_name),
        contract=contract,
        notes=tuple(notes),
        place=lambda row: f"{path.name} line {lines[row]}",
    )
    if need_pictures and not any(os.path.exists(picture) for picture in manifest.paths):
        raise UserError(
            f"{path}: none of its {len(table)} pictures was found; the first one was expected at "
            f"{manifest.paths[0]}; the column image is relative to the folder of the table"
            + (f" (root in {beside.name})" if metadata else "")
        )
    return manifest


def _check_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError if a manifest's JSON file holds values of other kinds than `Manifest.save` writes."""
    kinds: dict[str, Any] = {"classes": list, "notes": list, "root": str, "name": str, "contract": dict | None}
    wrong = [name for name, kind in kinds.items() if name in metadata and not isinstance(metadata[name], kind)]
    texts = {name: metadata.get(name, ()) for name in ("classes", "notes") if name not in wrong}
    wrong += [name for name, values in texts.items() if not all(isinstance(value, str) for value in values)]
    if wrong or "\0" in metadata.get("root", ""):
        raise UserError(f"{path} is damaged: {', '.join(wrong) or 'root'} has the wrong type; save the manifest again")


def as_data(data: Any) -> Path | Manifest:
    """What a function was given as its data: a path or a manifest, made of a DataFrame if it is one.

    Raises:
        UserError: If it is something else.
    """
    import pandas as pd

    if isinstance(data, Manifest):
        return data
    if isinstance(data, str | Path):
        return Path(data)
    if not isinstance(data, pd.DataFrame):
        raise UserError(
            f"data is a {type(data).__name__}, expected a folder of class folders, the path of a CSV or Parquet table, "
            "a face store, a Manifest, or a DataFrame with the columns image,label"
        )
    table = tidy_columns(data.reset_index(drop=True), "the DataFrame")
    check_columns(table, "the DataFrame")
    table, notes = tidy_values(table)
    return Manifest(table, Path(), notes=tuple(notes), place=lambda row: f"DataFrame row {row}")


def tidy_values(
    table: pd.DataFrame, classes: Sequence[str] = (), merge: str | Mapping[str, str] = ""
) -> tuple[pd.DataFrame, list[str]]:
    """Normalise a user's paths, labels and parts of sets; return the table and sentences on what was changed.

    Paths get forward slashes and no detours, so that each picture has one name.

    Raises:
        UserError: See `labels.tidy`.
    """
    import pandas as pd

    images = as_text(table["image"])
    labels, notes = tidy(list(as_text(table["label"])), classes, merge)
    table = table.assign(
        image=[posixpath.normpath(image.replace("\\", "/")) if image else "" for image in images],
        label=pd.Series(labels, index=table.index, dtype=object),
    )
    for column in filter(is_split_column, map(str, table.columns)):
        table[column] = as_text(table[column]).map(split_name).to_numpy()
    spelling = {f"p_{name}".casefold(): f"p_{name}" for name in (*labels, *classes) if name}
    table = table.rename(
        columns={c: spelling[c.casefold()] for c in map(str, table.columns) if c.casefold() in spelling}
    )
    for column in set(spelling.values()) & set(table.columns):
        table[column] = _numbers(table[column])
    return table, notes


def _numbers(column: pd.Series) -> pd.Series:
    """The votes for a class as numbers; a decimal comma is a point, and a blank cell is NaN.

    Raises:
        UserError: If a cell is no number.
    """
    import pandas as pd

    texts = as_text(column)
    numbers = pd.to_numeric(texts.str.replace(",", "."), errors="coerce")
    wrong = texts[numbers.isna() & (texts != "")]
    if len(wrong):
        raise UserError(f"the column {column.name} holds votes for a class, expected numbers, got '{wrong.iloc[0]}'")
    return pd.Series(numbers.to_numpy(), index=column.index)


def _renaming(merge_labels: str | Path | Mapping[str, str]) -> str | Mapping[str, str]:
    """ "auto", "", or label -> class of a file with the columns from,to."""
    if isinstance(merge_labels, Mapping) or str(merge_labels) in ("", "auto"):
        return merge_labels if isinstance(merge_labels, Mapping) else str(merge_labels)
    path = Path(merge_labels)
    if not path.is_file():
        raise UserError(f"--merge-labels is '{path}', expected auto, or a CSV file with the columns from,to")
    table, _ = read_csv(path)
    if not {"from", "to"} <= set(table.columns):
        raise UserError(f"{path} has the columns {', '.join(table.columns)}; expected from,to")
    return dict(zip(table["from"], table["to"], strict=True))


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


def check_exists(path: Path) -> None:
    """Raise a UserError if there is no such file or folder."""
    if not os.path.exists(path):
        parent = next((p for p in Path(path).absolute().parents if os.path.isdir(p)), None)
        raise UserError(f"{path} was not found; the nearest folder that exists is {parent}")
