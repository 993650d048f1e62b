"""SFEW 2.0, Static Facial Expressions in the Wild: frames of films."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest, is_picture_name
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical

PARTS = {"train": "train", "val": "valid"}


def read(path: Path, faces: str = "auto") -> Manifest:
    """Train and Val; the folder is the expression.

    Args:
        faces: "aligned" for the organisers' face crops, "original" for whole frames, "auto" for aligned if they
            exist.
    Raises:
        UserError: If this is not SFEW, or one of the two parts is missing.
    """
    layout.check_option("faces", faces, ("auto", "aligned", "original"))
    rows, empty, other, kinds = [], [], [], set()
    for prefix, split in PARTS.items():
        folder, kind = _part(path, prefix, faces)
        kinds.add(kind)
        for emotion in layout.subfolders(folder):
            label, found = canonical(emotion.name), layout.pictures_in(emotion)
            if label is None:
                if kind == "aligned" or not emotion.name.lower().startswith(prefix):
                    other.append(layout.relative(emotion, path))
            elif not found:
                empty.append(layout.relative(emotion, path))
            else:
                films = [re.sub(r"_[0-9]+_[0-9]+$", "", picture.stem) for picture in found]
                rows += [(layout.relative(p, path), label, split, film) for p, film in zip(found, films, strict=True)]
    if len(kinds) > 1:
        raise UserError(f"{path}: Train and Val differ (aligned and original); pass faces=aligned or faces=original")
    table = pd.DataFrame(rows, columns=["image", "label", "split", "film"])
    train, valid = ((table["split"] == split).sum() for split in PARTS.values())
    if not train or not valid:
        raise UserError(f"{path}: {train} pictures in Train and {valid} in Val; both are needed")
    notes = [
        f"{train} pictures of Train and {valid} of Val ({kinds.pop()}).",
        *layout.counted(empty, "folders hold no picture"),
        *layout.counted(other, "folders are no expression"),
    ]
    return Manifest(table, path, name="sfew", notes=tuple(notes))


def _part(path: Path, prefix: str, faces: str) -> tuple[Path, str]:
    """The folder with the expression folders of Train or Val, and whether it is aligned or original."""
    level = [p for p in layout.subfolders(path) if p.name.lower().startswith(prefix)]
    below = [q for p in level for q in layout.subfolders(p) if q.name.lower().startswith(prefix)]
    found = [p for p in [*below, *level] if any(canonical(q.name) for q in layout.subfolders(p))]
    for kind in ("aligned", "original"):
        folders = [p for p in found if ("aligned" in p.name.lower()) == (kind == "aligned")]
        if folders and faces in (kind, "auto"):
            return folders[0], kind
    if any(canonical(p.name) for p in layout.subfolders(path)):
        raise UserError(
            f"{path}: this looks like one part of SFEW (it holds the expression folders); give its parent, "
            f"{path.resolve().parent}, which holds Train and Val"
        )
    if level:
        loose = [p.name for p in level if any(is_picture_name(q.name) for q in layout.entries(p))]
        what = f"pictures outside expression folders in {', '.join(loose)}" if loose else "no expression folders"
        raise UserError(
            f"{path}: expected {prefix.capitalize()} with {faces} faces in folders like Angry; it has {what}"
        )
    raise layout.wrong_root(path, "SFEW", "folders with names that begin with Train and Val", PARTS)


SOURCE = Source(
    name="sfew",
    title="SFEW 2.0 (Static Facial Expressions in the Wild)",
    reader=read,
    options={
        "faces": "auto, aligned (the organisers' face crops) or original (whole frames)",
    },
)
