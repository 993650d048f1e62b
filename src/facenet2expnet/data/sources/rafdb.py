"""RAF-DB, Real-world Affective Faces: the basic set of seven expressions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import (
    a_few,
    child,
    deep_child,
    found_below,
    pictures_in,
    relative,
    subfolders,
    wrong_root,
)
from facenet2expnet.errors import UserError
from facenet2expnet.labels import RAFDB_CODES

LABELS = ("list_patition_label.txt", "list_partition_label.txt")
FACES = ("aligned", "original")

ABOUT = About(
    title="RAF-DB (Real-world Affective Faces, basic set)",
    ask="Weihong Deng, Beijing University of Posts and Telecommunications: www.whdeng.cn/RAF/model1.html",
    terms="Non-commercial research, by agreement from an academic address.",
    tree="""
EmoLabel/list_patition_label.txt           ("train_00001.jpg 5", spelt like this)
Image/aligned/train_00001_aligned.jpg, test_0001_aligned.jpg, ...
Image/original/train_00001.jpg, ...        (or the DATASET/train/1/... form that is passed around)
""",
    classes="7 (An Di Fe Ha Sa Su Ne).",
    protocol="Train on the 12,271 train pictures, report the 3,068 test pictures: --protocol split.",
    traps=(
        "There is no validation part: choosing the epoch on test, as many do, overstates the accuracy.",
        "Subjects are unknown.",
        "Codes run from 1: 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral.",
    ),
)


def read(path: Path, faces: str = "aligned") -> Manifest:
    """The basic set with its official parts.

    Args:
        faces: "aligned" for the faces that the owners cut out, "original" for whole pictures.
    Raises:
        UserError: If this is not RAF-DB, a line of the label file is damaged, or no picture is there.
    """
    if faces not in FACES:
        raise UserError(f"faces is {faces}, expected {' or '.join(FACES)}")
    labels = next((found for name in LABELS for found in found_below(path, name)), None)
    if labels is None:
        return _read_folders(path)
    base = labels.parent.parent if labels.parent.name.lower() == "emolabel" else labels.parent
    folder = deep_child(base, "Image", faces) or child(base, faces)
    if folder is None:
        raise UserError(
            f"{base} has RAF-DB's labels but not Image/{faces}; unpack {faces}.zip there, or pass "
            f"faces={FACES[1 - FACES.index(faces)]}"
        )
    there = {picture.name.lower(): picture for picture in pictures_in(folder)}
    rows, missing, faults = [], [], []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        split = cells[0].split("_")[0].lower()
        label = RAFDB_CODES.get(int(cells[1])) if len(cells) == 2 and cells[1].isdecimal() else None
        if label is None or split not in ("train", "test"):
            faults.append(f"{labels.name} line {number}: expected 'train_00001.jpg 5', got '{line}'")
            continue
        stem = cells[0].rsplit(".", 1)[0].lower()
        names = (f"{stem}_aligned.jpg", f"{stem}.jpg", f"{stem}.png")
        picture = next((there[name] for name in names if name in there), None)
        if picture is None:
            missing.append(cells[0])
        else:
            rows.append({"image": relative(picture, path), "label": label, "split": split})
    if faults:
        raise UserError(
            "\n".join(faults[:10]) + (f"\n… and {len(faults) - 10} more" if len(faults) > 10 else "")
        )
    if not rows:
        raise UserError(
            f"{folder} holds none of the {len(missing)} pictures of {labels.name}; is it unpacked?"
        )
    notes = [f"{len(rows)} pictures were read ({faces})."]
    if missing:
        notes.append(f"{len(missing)} pictures of the list are not there: {a_few(missing)}.")
    return Manifest(pd.DataFrame(rows), path, name="rafdb", notes=tuple(notes))


def _read_folders(path: Path) -> Manifest:
    """The form DATASET/train/1/train_00001_aligned.jpg, in which folders are the codes."""
    base = child(path, "DATASET") or path
    parts = {name: folder for name in ("train", "test") if (folder := child(base, name)) is not None}
    rows = [
        {"image": relative(picture, path), "label": RAFDB_CODES[int(code.name)], "split": split}
        for split, part in parts.items()
        for code in subfolders(part)
        if code.name.isdecimal() and int(code.name) in RAFDB_CODES
        for picture in pictures_in(code)
    ]
    if not rows:
        parts_of_it = ("EmoLabel", "Image", "aligned", "original")
        raise wrong_root(path, "RAF-DB", f"EmoLabel/{LABELS[0]} and Image/aligned", parts_of_it)
    notes = (f"{len(rows)} pictures were read from folders named by code.",)
    return Manifest(pd.DataFrame(rows), path, name="rafdb", notes=notes)


SOURCE = Source("rafdb", ABOUT, read, {"faces": "aligned (cut out by the owners) or original"})
