"""SFEW 2.0, Static Facial Expressions in the Wild: frames of films."""

from __future__ import annotations

import re
from pathlib import Path

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
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
            shown = emotion.relative_to(path).as_posix()
            if label is not None:
                rows += [(picture, label, split, re.sub(r"_\d+_\d+$", "", picture.stem)) for picture in found]
                empty += [] if found else [shown]
            elif kind == "aligned" or not emotion.name.lower().startswith(prefix):
                other.append(shown)
    if len(kinds) > 1:
        raise UserError(f"{path}: Train and Val differ (aligned and original); pass faces=aligned or faces=original")
    train, valid = (sum(row[2] == split for row in rows) for split in PARTS.values())
    if not train or not valid:
        raise UserError(f"{path}: {train} pictures in Train and {valid} in Val; both are needed")
    notes = [
        f"{train} pictures of Train and {valid} of Val ({kinds.pop()}).",
        *layout.counted(empty, "folders hold no picture"),
        *layout.counted(other, "folders are no expression"),
    ]
    return layout.manifest("sfew", path, rows, "image label split film", notes)


def _part(path: Path, prefix: str, faces: str) -> tuple[Path, str]:
    """The folder with the expression folders of Train or Val, and whether it is aligned or original."""

    def named(folder: Path) -> list[Path]:
        return [p for p in layout.subfolders(folder) if p.name.lower().startswith(prefix)]

    def holds_expressions(folder: Path) -> bool:
        return any(canonical(p.name) for p in layout.subfolders(folder))

    if not path.is_dir():
        raise layout.wrong_root(path, "SFEW", "a folder")
    level = named(path)
    found = [p for p in [*(q for p in level for q in named(p)), *level] if holds_expressions(p)]
    for kind in ("aligned", "original"):
        folders = [p for p in found if ("aligned" in p.name.lower()) == (kind == "aligned")]
        if folders and faces in (kind, "auto"):
            return folders[0], kind
    if holds_expressions(path):
        raise UserError(
            f"{path}: this looks like one part of SFEW (it holds the expression folders); give its parent, "
            f"{path.resolve().parent}, which holds Train and Val"
        )
    if level:
        raise UserError(
            f"{path}: {level[0].name} has no folders like Angry with faces={faces}; put each picture into a folder with "
            "the name of its expression, or pass another value of faces"
        )
    raise layout.wrong_root(path, "SFEW", "folders with names that begin with Train and Val", PARTS)


OPTIONS = {"faces": "auto, aligned (the organisers' face crops) or original (whole frames)"}
SOURCE = Source("sfew", "SFEW 2.0 (Static Facial Expressions in the Wild)", read, OPTIONS)
