"""AffectNet: pictures from the web with expression, valence and arousal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.data.table import SPLITS, check_columns, read_csv, split_name, tidy_columns
from facenet2expnet.errors import UserError
from facenet2expnet.labels import AFFECTNET_CODES, EXPRESSIONS, canonical

CLASSES = {8: EXPRESSIONS, 7: tuple(name for name in EXPRESSIONS if name != "contempt")}
LISTS = {"training.csv": "train", "validation.csv": "valid"}
SETS = {"train_set": "train", "val_set": "valid"}
CODES = dict(AFFECTNET_CODES) | {8: "none", 9: "uncertain", 10: "no face"}
BOX = ["face_x", "face_y", "face_width", "face_height"]
IMAGES = "Manually_Annotated_Images"


def read(path: Path, classes: int | str | Sequence[str] = 8) -> Manifest:
    """The manually annotated pictures with an expression; face boxes of the first form are kept as columns.

    Raises:
        UserError: If this is not AffectNet, an annotation is damaged, or no picture exists.
    """
    wanted = layout.choose_classes(classes, CLASSES)
    sets = any(layout.child(path, name) for name in SETS)
    rows, left, missing = [], Counter[str](), []
    lists = any(next(layout.find_below(path, name), None) for name in LISTS)
    kaggle = None if sets or lists else next(layout.find_below(path, "labels.csv"), None)
    found = _from_sets(path) if sets else _from_kaggle(kaggle) if kaggle else _from_lists(path)
    for picture, label, split, box in found:
        if label not in wanted:
            left[label] += 1
        elif not picture.exists():
            missing.append(picture.name)
        else:
            rows.append({"image": picture.relative_to(path).as_posix(), "label": label, "split": split} | box)
    if not rows:
        raise UserError(f"{path}: none of AffectNet's {len(missing)} listed pictures exists; is it unpacked?")
    notes = [f"{len(rows)} pictures were read."]
    if kaggle:
        folders = [(canonical(str(row["image"]).rpartition("/")[0].rpartition("/")[2]), row["label"]) for row in rows]
        moved = sum(folder not in (None, label) for folder, label in folders)
        notes += [f"{moved} pictures have another label in labels.csv than their folder's name."] if moved else []
    if left:
        numbers = ", ".join(f"{name} {count}" for name, count in sorted(left.items()))
        notes.append(f"{left.total()} were left out: {numbers}.")
    notes += layout.counted(missing, "listed pictures are missing")
    if kaggle:
        table = pd.DataFrame(rows)
        table = table if table["split"].any() else table.drop(columns="split")
        return Manifest(table, path, name="affectnet", notes=tuple(notes))
    if absent := [split for split in SETS.values() if split not in {row["split"] for row in rows}]:
        notes.append(f"There is no picture of the part {' and '.join(absent)}: the download is not complete.")
    return Manifest(pd.DataFrame(rows), path, name="affectnet", notes=tuple(notes))


def _from_kaggle(file: Path) -> Iterator[tuple[Path, str, str, dict[str, int]]]:
    """Picture, label, split and no box of Kaggle's form: labels.csv with the columns pth and label, and class folders.

    The pictures are beside the list, or below folders such as Train and Test beside it.

    Raises:
        UserError: If a picture is in two of them.
    """
    table = tidy_columns(read_csv(file)[0], str(file))
    check_columns(table, str(file))
    parts = [p for p in layout.entries(file.parent) if p.is_dir() and split_name(p.name) in SPLITS]
    for image, text in zip(table["image"], table["label"], strict=True):
        image, text = image.strip().replace("\\", "/").lstrip("/"), text.strip()
        having = [folder for folder in (*parts, file.parent) if (folder / image).exists()]
        if len(having) > 1:
            where = " and ".join(map(str, having))
            raise UserError(
                f"{file} lists {image}, which is in {where}; remove or rename one, so that its part is clear"
            )
        inside = having[0] if having else file.parent
        first = split_name((inside / image).relative_to(file.parent).parts[0])
        label = _label(int(text)) if text.isdecimal() else canonical(text) or text
        yield inside / image, label, first if first in SPLITS else "", {}


def _label(code: int) -> str:
    return CODES.get(code, f"code {code}")


def _from_sets(path: Path) -> Iterator[tuple[Path, str, str, dict[str, int]]]:
    """Picture, label, split and face box of the form with one small .npy file per picture."""
    table, _ = layout.matching(path, r"(?P<part>train_set|val_set)/images/[^/]+")
    for picture, part in zip(map(path.joinpath, table["image"]), table["part"], strict=True):
        file = picture.parent.parent / "annotations" / f"{picture.stem}_exp.npy"
        try:
            yield picture, _label(int(str(np.load(file, allow_pickle=False).item()))), SETS[part.lower()], {}
        except FileNotFoundError as fault:
            raise UserError(f"{picture} has no annotation; expected {file}; is the download complete?") from fault
        except (ValueError, OSError, EOFError) as fault:
            raise UserError(f"{file} is damaged: expected one number from 0 to 10; {fault}") from fault


def _from_lists(path: Path) -> Iterator[tuple[Path, str, str, dict[str, int]]]:
    """Picture, label, split and face box of the form with two CSV lists."""
    lists = {split: file for name, split in LISTS.items() if (file := next(layout.find_below(path, name), None))}
    if not lists:
        parts = (*SETS, IMAGES, "Manually_Annotated_file_lists", "annotations")
        raise layout.wrong_root(path, "AffectNet", "train_set and val_set, or Manually_Annotated_file_lists", parts)
    folder = next((p for p in layout.find_below(path, IMAGES) if p.is_dir()), None)
    if folder is None:
        raise UserError(f"{path} has AffectNet's lists but no folder {IMAGES}; unpack the pictures")
    for split, file in lists.items():
        table, numbers = read_csv(file)
        needed = {"subDirectory_filePath", "expression"} - set(table.columns)
        if needed:
            raise UserError(f"{file} lacks the column {', '.join(sorted(needed))}")
        for line, row in zip(numbers, table.to_dict("records"), strict=True):
            try:
                texts = {name: row[name].strip().replace(",", ".") for name in BOX if name in row}
                box = {name: int(float(text)) for name, text in texts.items() if text not in ("", "NULL")}
                yield folder / row["subDirectory_filePath"].strip(), _label(int(row["expression"])), split, box
            except (ValueError, TypeError) as fault:
                raise UserError(f"{file.name} line {line} can't be read: {fault}") from fault


OPTIONS = {"classes": "8, 7, or names separated by commas"}
SOURCE = Source("affectnet", "AffectNet (manually annotated part)", read, OPTIONS)
