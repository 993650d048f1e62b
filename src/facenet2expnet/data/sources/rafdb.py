"""RAF-DB, Real-world Affective Faces: the basic set of seven expressions."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from facenet2expnet.data.folders import find_pictures
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.data.table import raise_faults
from facenet2expnet.errors import UserError
from facenet2expnet.labels import RAFDB_CODES, canonical

LABELS = ("list_patition_label.txt", "list_partition_label.txt")
CODES = {str(code): name for code, name in RAFDB_CODES.items()}
FACES = ("aligned", "original")
PATTERN = r"(?:DATASET/)?(?P<split>train|test)/(?P<label>[^/]+)/[^/]+"


def read(path: Path, faces: str = "aligned") -> Manifest:
    """The basic set with its official parts, with a label file or with a folder per code.

    Args:
        faces: "aligned" for the owners' face crops, "original" for whole pictures.
    Raises:
        UserError: If this is not RAF-DB, a line of the label file is damaged, or no picture exists.
    """
    layout.check_option("faces", faces, FACES)
    labels = next((found for name in LABELS for found in layout.find_below(path, name)), None)
    if labels is not None:
        table, missing = _from_list(path, labels, faces)
        notes = [f"{len(table)} pictures were read ({faces})."]
        notes += layout.counted(missing, "pictures of the list are missing")
        return Manifest(table, path, name="rafdb", notes=tuple(notes))
    table, _ = layout.matching(path, PATTERN)
    unknown = list[str]()
    if len(table):
        known = table["label"].map(lambda name: CODES.get(name, canonical(name)))
        left = Counter[str](table["label"][known.isna()])
        unknown = [f"{name} {count}" for name, count in sorted(left.items())]
        table = table.assign(label=known).dropna(subset="label")
    if not len(table):
        expected = f"EmoLabel/{LABELS[0]} and Image/aligned"
        raise layout.wrong_root(path, "RAF-DB", expected, ("EmoLabel", "Image", *FACES))
    table = table.assign(split=table["split"].str.lower())
    table = table.sort_values("split", ascending=False, kind="stable")  # train first
    notes = [f"{len(table)} pictures were read from a folder per code."]
    notes += layout.counted(unknown, "folders are no expression, and their pictures were left out")
    return Manifest(table, path, name="rafdb", notes=tuple(notes))


def _from_list(path: Path, labels: Path, faces: str) -> tuple[pd.DataFrame, list[str]]:
    """Image, label and split by the label file, and the names of missing pictures."""
    base = labels.parent.parent if labels.parent.name.lower() == "emolabel" else labels.parent
    folder = layout.child(base, f"Image/{faces}", faces)
    if folder is None:
        advice = f"unpack {faces}.zip there, or pass faces={FACES[1 - FACES.index(faces)]}"
        raise UserError(f"{base} has RAF-DB's labels but not Image/{faces}; {advice}")
    existing = {picture.stem.lower(): picture.relative_to(path).as_posix() for picture in find_pictures(folder)}
    rows, missing, faults = [], [], []
    for number, line in enumerate(labels.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name, *codes = re.split(r"[\s,;]+", line.strip(" \t,;"))
        stem, split, label = Path(name).stem.lower(), name.split("_")[0].lower(), CODES.get(" ".join(codes))
        image = existing.get(f"{stem}_aligned", existing.get(stem))
        if name and (label is None or split not in ("train", "test")):
            faults.append(f"{labels.name} line {number}: expected 'train_00001.jpg 5', got '{line}'")
        elif name and image is None:
            missing.append(name)
        elif name:
            rows.append((image, label, split))
    raise_faults(faults)
    if not rows:
        raise UserError(f"{folder} holds none of the {len(missing)} pictures of {labels.name}; is it unpacked?")
    return pd.DataFrame(rows, columns=["image", "label", "split"]), missing


OPTIONS = {"faces": "aligned (the owners' face crops) or original"}
SOURCE = Source("rafdb", "RAF-DB (Real-world Affective Faces, basic set)", read, OPTIONS)
