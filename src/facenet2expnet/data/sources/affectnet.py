"""AffectNet: pictures from the web with expression, valence and arousal."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import (
    a_few,
    child,
    choose_classes,
    found_below,
    pictures_in,
    relative,
    wrong_root,
)
from facenet2expnet.errors import UserError
from facenet2expnet.labels import AFFECTNET_CODES, EXPRESSIONS

CLASSES = {8: EXPRESSIONS, 7: tuple(name for name in EXPRESSIONS if name != "contempt")}
LISTS = {"training": "train", "validation": "valid"}
SETS = {"train_set": "train", "val_set": "valid"}
NO_EXPRESSION = {8: "none", 9: "uncertain", 10: "no face"}
BOX = ("face_x", "face_y", "face_width", "face_height")

ABOUT = About(
    title="AffectNet (manually annotated part)",
    ask="Mohammad Mahoor, University of Denver: mohammadmahoor.com/affectnet",
    terms="Research only, by an agreement that a professor or supervisor signs.",
    tree="""
train_set/images/0.jpg, train_set/annotations/0_exp.npy, ...    (the form given out since 2021)
val_set/images/..., val_set/annotations/...
  or
Manually_Annotated_Images/1/....jpg                             (the first form, also inside Manually_Annotated/)
Manually_Annotated_file_lists/training.csv, validation.csv
""",
    classes="8 (An Co Di Fe Ha Sa Su Ne) or 7 (without contempt).",
    protocol="Train on the training set, report the validation set (the test set is not public): --protocol split.",
    traps=(
        "The training set is very uneven, the validation set even: say how you balanced.",
        "Codes 8 (none), 9 (uncertain) and 10 (no face) are left out and counted.",
        "Subjects are unknown; some people appear often.",
    ),
)


def read(path: Path, classes: int | str | Sequence[str] = 8) -> Manifest:
    """The manually annotated pictures with an expression; the first form's face boxes are kept as columns.

    Raises:
        UserError: If this is not AffectNet, an annotation is damaged, or no picture is there.
    """
    wanted = choose_classes(classes, CLASSES)
    sets = {split: part for name, split in SETS.items() if (part := child(path, name)) is not None}
    lists = {
        split: found[0]
        for name, split in LISTS.items()
        if (found := [p for p in found_below(path, f"{name}.csv") if p.is_file()])
    }
    if sets:
        items = _from_sets(sets)
    elif lists:
        items = _from_lists(path, lists)
    else:
        parts = (*SETS, "Manually_Annotated_Images", "Manually_Annotated_file_lists", "annotations")
        raise wrong_root(path, "AffectNet", "train_set and val_set, or Manually_Annotated_file_lists", parts)
    rows = []
    left: Counter[str] = Counter()
    missing = []
    for picture, code, split, box in items:
        label = AFFECTNET_CODES.get(code)
        if label is None or label not in wanted:
            left[NO_EXPRESSION.get(code, label or f"code {code}")] += 1
        elif not picture.exists():
            missing.append(picture.name)
        else:
            rows.append({"image": relative(picture, path), "label": label, "split": split} | box)
    if not rows:
        raise UserError(
            f"{path}: none of AffectNet's {len(missing)} listed pictures is there; is it unpacked?"
        )
    notes = [f"{len(rows)} pictures were read."]
    if left:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(left.items()))
        notes.append(f"{sum(left.values())} were left out: {listed}.")
    if missing:
        notes.append(f"{len(missing)} listed pictures are not there: {a_few(missing)}.")
    absent = [split for split in ("train", "valid") if not any(row["split"] == split for row in rows)]
    if absent:
        notes.append(f"There is no picture of the part {' and '.join(absent)}: the download is not complete.")
    order = tuple(name for name in wanted if any(row["label"] == name for row in rows))
    return Manifest(pd.DataFrame(rows), path, order, name="affectnet", notes=tuple(notes))


def _from_sets(sets: dict[str, Path]) -> Iterator[tuple[Path, int, str, dict[str, int]]]:
    """The form with one small .npy file a picture."""
    for split, folder in sets.items():
        images, annotations = child(folder, "images"), child(folder, "annotations")
        if images is None or annotations is None:
            raise UserError(f"{folder} lacks images or annotations; is the download complete?")
        for picture in sorted(pictures_in(images), key=lambda p: natural_key(p.name)):
            note = annotations / f"{picture.stem}_exp.npy"
            try:
                code = int(str(np.load(note, allow_pickle=False).item()))
            except FileNotFoundError as fault:
                raise UserError(f"{picture} has no annotation; expected {note}") from fault
            except (ValueError, OSError, EOFError) as fault:
                raise UserError(f"{note} is damaged: expected one number from 0 to 10; {fault}") from fault
            yield picture, code, split, {}


def _from_lists(path: Path, lists: dict[str, Path]) -> Iterator[tuple[Path, int, str, dict[str, int]]]:
    """The form with two CSV lists."""
    folders = [p for p in found_below(path, "Manually_Annotated_Images") if p.is_dir()]
    if not folders:
        raise UserError(
            f"{path} has AffectNet's lists but no folder Manually_Annotated_Images; unpack the pictures"
        )
    for split, file in lists.items():
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            needed = {"subDirectory_filePath", "expression"} - set(reader.fieldnames or ())
            if needed:
                raise UserError(f"{file} lacks the column {', '.join(sorted(needed))}")
            for row in reader:
                try:
                    box = {
                        name: int(float(row[name])) for name in BOX if row.get(name) not in (None, "", "NULL")
                    }
                    yield folders[0] / row["subDirectory_filePath"], int(row["expression"]), split, box
                except (ValueError, TypeError) as fault:
                    raise UserError(f"{file.name} line {reader.line_num} can't be read: {fault}") from fault


SOURCE = Source("affectnet", ABOUT, read, {"classes": "8, 7, or names separated by commas"})
