"""RAF-DB, Real-world Affective Faces: the basic set of seven expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.data.table import raise_faults
from facenet2expnet.errors import UserError
from facenet2expnet.labels import RAFDB_CODES

LABELS = ("list_patition_label.txt", "list_partition_label.txt")
CODES = {str(code): name for code, name in RAFDB_CODES.items()}
FACES = ("aligned", "original")


def read(path: Path, faces: str = "aligned") -> Manifest:
    """The basic set with its official parts.

    Args:
        faces: "aligned" for the owners' face crops, "original" for whole pictures.
    Raises:
        UserError: If this is not RAF-DB, a line of the label file is damaged, or no picture exists.
    """
    layout.check_option("faces", faces, FACES)
    labels = next((found for name in LABELS for found in layout.find_below(path, name)), None)
    if labels is None:
        return _read_folders(path)
    base = labels.parent.parent if labels.parent.name.lower() == "emolabel" else labels.parent
    folder = layout.child(base, f"Image/{faces}", faces)
    if folder is None:
        raise UserError(
            f"{base} has RAF-DB's labels but not Image/{faces}; unpack {faces}.zip there, or pass "
            f"faces={FACES[1 - FACES.index(faces)]}"
        )
    existing = {picture.name.lower(): picture for picture in layout.pictures_in(folder)}
    rows, missing, faults = [], [], []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
        name, *codes = line.split() or [""]
        split, label = name.split("_")[0].lower(), CODES.get(" ".join(codes))
        stem = name.rsplit(".", 1)[0].lower()
        found = [existing[f] for f in (f"{stem}_aligned.jpg", f"{stem}.jpg", f"{stem}.png") if f in existing]
        if name and (label is None or split not in ("train", "test")):
            faults.append(f"{labels.name} line {number}: expected 'train_00001.jpg 5', got '{line}'")
        elif name and found:
            rows.append((layout.relative(found[0], path), label, split))
        elif name:
            missing.append(name)
    raise_faults(faults)
    if not rows:
        raise UserError(f"{folder} holds none of the {len(missing)} pictures of {labels.name}; is it unpacked?")
    notes = [
        f"{len(rows)} pictures were read ({faces}).",
        *layout.counted(missing, "pictures of the list are missing"),
    ]
    return _manifest(rows, path, notes)


def _read_folders(path: Path) -> Manifest:
    """The form DATASET/train/1/train_00001_aligned.jpg, with a folder per code."""
    base = layout.child(path, "DATASET") or path
    rows = [
        (layout.relative(picture, path), CODES[code.name], split)
        for split in ("train", "test")
        if (part := layout.child(base, split)) is not None
        for code in layout.subfolders(part)
        if code.name in CODES
        for picture in layout.pictures_in(code)
    ]
    if not rows:
        parts = ("EmoLabel", "Image", "aligned", "original")
        raise layout.wrong_root(path, "RAF-DB", f"EmoLabel/{LABELS[0]} and Image/aligned", parts)
    return _manifest(rows, path, [f"{len(rows)} pictures were read from a folder per code."])


def _manifest(rows: Sequence[tuple[str, str | None, str]], path: Path, notes: list[str]) -> Manifest:
    table = pd.DataFrame(rows, columns=["image", "label", "split"])
    return Manifest(table, path, name="rafdb", notes=tuple(notes))


SOURCE = Source(
    name="rafdb",
    title="RAF-DB (Real-world Affective Faces, basic set)",
    reader=read,
    options={
        "faces": "aligned (the owners' face crops) or original",
    },
)
