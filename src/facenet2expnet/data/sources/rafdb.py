"""RAF-DB, Real-world Affective Faces: the basic set of seven expressions."""

from __future__ import annotations

from pathlib import Path

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
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
        rows = _rows_of_folders(path)
        notes = [f"{len(rows)} pictures were read from a folder per code."]
    else:
        rows, missing = _rows_of_list(labels, faces)
        notes = [
            f"{len(rows)} pictures were read ({faces}).",
            *layout.counted(missing, "pictures of the list are missing"),
        ]
    return layout.manifest("rafdb", path, rows, "image label split", notes)


def _rows_of_list(labels: Path, faces: str) -> tuple[list[tuple[Path, str, str]], list[str]]:
    """Image, label and split of the form with a label file, and the names of missing pictures."""
    base = labels.parent.parent if labels.parent.name.lower() == "emolabel" else labels.parent
    folder = layout.child(base, f"Image/{faces}", faces)
    if folder is None:
        raise UserError(
            f"{base} has RAF-DB's labels but not Image/{faces}; unpack {faces}.zip there, or pass "
            f"faces={FACES[1 - FACES.index(faces)]}"
        )
    existing = {picture.stem.lower(): picture for picture in layout.pictures_in(folder)}
    rows, missing, faults = [], [], []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, *codes = line.split()
        stem, split, label = name.rsplit(".", 1)[0].lower(), name.split("_")[0].lower(), CODES.get(" ".join(codes))
        picture = existing.get(f"{stem}_aligned", existing.get(stem))
        if label is None or split not in ("train", "test"):
            faults.append(f"{labels.name} line {number}: expected 'train_00001.jpg 5', got '{line}'")
        elif picture is None:
            missing.append(name)
        else:
            rows.append((picture, label, split))
    raise_faults(faults)
    if not rows:
        raise UserError(f"{folder} holds none of the {len(missing)} pictures of {labels.name}; is it unpacked?")
    return rows, missing


def _rows_of_folders(path: Path) -> list[tuple[Path, str, str]]:
    """Image, label and split of the form DATASET/train/1/train_00001_aligned.jpg, with a folder per code."""
    parts = {split: layout.child(path, f"DATASET/{split}", split) for split in ("train", "test")}
    rows = [
        (picture, CODES[code.name], split)
        for split, part in parts.items()
        for code in (layout.subfolders(part) if part is not None else [])
        if code.name in CODES
        for picture in layout.pictures_in(code)
    ]
    if not rows:
        expected, inside = f"EmoLabel/{LABELS[0]} and Image/aligned", ("EmoLabel", "Image", *FACES)
        raise layout.wrong_root(path, "RAF-DB", expected, inside)
    return rows


OPTIONS = {"faces": "aligned (the owners' face crops) or original"}
SOURCE = Source("rafdb", "RAF-DB (Real-world Affective Faces, basic set)", read, OPTIONS)
