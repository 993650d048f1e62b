"""SFEW 2.0, Static Facial Expressions in the Wild: frames of films."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest, is_picture_name
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import a_few, listed, pictures_in, relative, subfolders, wrong_root
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical

PARTS = {"train": "train", "val": "valid"}
FACES = ("auto", "aligned", "original")

ABOUT = About(
    title="SFEW 2.0 (Static Facial Expressions in the Wild)",
    ask="the organisers of EmotiW, Abhinav Dhall: cs.anu.edu.au/few",
    terms="Research only, by signed agreement; the pictures come from films.",
    tree="""
Train_Aligned_Faces/Angry/Airheads_000519240_00000005.png, ...   (or Train/Train_Aligned_Faces/, or Train/Angry/)
Val_Aligned_Faces/Angry/...                                      (or Val_Aligned_Faces_new, Val/...)
""",
    classes="7 (An Di Fe Ha Sa Su Ne).",
    protocol="Train on Train, report Val: --protocol split. FER2013 may be added to the training side.",
    traps=(
        "The paper's 891 and 431 pictures are those with an aligned face; the whole frames are more.",
        "The test part has no public labels and is not read.",
        "Val is what gets reported, so it must not choose the epoch; selection takes an inner part of Train.",
    ),
)


def read(path: Path, faces: str = "auto") -> Manifest:
    """Train and Val with the folder's expression.

    Args:
        faces: "aligned" for the faces that the organisers cut out, "original" for whole frames, "auto" for
            aligned where they are there.
    Raises:
        UserError: If this is not SFEW, or one of the two parts is missing.
    """
    if faces not in FACES:
        raise UserError(f"faces is {faces}, expected {', '.join(FACES)}")
    rows, notes, other = [], [], []
    kinds = set()
    for prefix, split in PARTS.items():
        folder, kind = _part(path, prefix, faces)
        kinds.add(kind)
        for emotion in subfolders(folder):
            label = canonical(emotion.name)
            if label is None:
                if kind == "aligned" or not emotion.name.lower().startswith(prefix):
                    other.append(relative(emotion, path))
                continue
            found = pictures_in(emotion)
            if not found:
                notes.append(f"{relative(emotion, path)} holds no picture.")
            rows += [
                {
                    "image": relative(picture, path),
                    "label": label,
                    "split": split,
                    "film": re.sub(r"_[0-9]+_[0-9]+$", "", picture.stem),
                }
                for picture in found
            ]
    if len(kinds) > 1:
        raise UserError(
            f"{path}: Train and Val are not of one kind ({' and '.join(sorted(kinds))}); pass faces=aligned or "
            "faces=original"
        )
    counts = {split: sum(row["split"] == split for row in rows) for split in PARTS.values()}
    if not all(counts.values()):
        raise UserError(
            f"{path}: {counts['train']} pictures to train and {counts['valid']} in Val; both are needed"
        )
    notes.insert(0, f"{counts['train']} pictures of Train and {counts['valid']} of Val ({kinds.pop()}).")
    if other:
        notes.append(f"{len(other)} folders are no expression: {a_few(other)}.")
    return Manifest(pd.DataFrame(rows), path, name="sfew", notes=tuple(notes))


def _part(path: Path, prefix: str, faces: str) -> tuple[Path, str]:
    """The folder with the expression folders of Train or Val, and whether it is aligned or original."""
    level = [p for p in subfolders(path) if p.name.lower().startswith(prefix)]
    below = [q for p in level for q in subfolders(p) if q.name.lower().startswith(prefix)]
    found = [p for p in [*below, *level] if any(canonical(q.name) for q in subfolders(p))]
    aligned = [p for p in found if "aligned" in p.name.lower()]
    original = [p for p in found if "aligned" not in p.name.lower()]
    if faces != "original" and aligned:
        return aligned[0], "aligned"
    if faces != "aligned" and original:
        return original[0], "original"
    if path.is_dir() and any(canonical(p.name) for p in subfolders(path)):
        raise UserError(
            f"{path}: this looks like one part of SFEW (it holds the expression folders); give its parent, "
            f"{path.resolve().parent}, which holds Train and Val"
        )
    if level:
        loose = [p.name for p in level if any(is_picture_name(q.name) for q in listed(p))]
        what = (
            f"pictures without expression folders in {', '.join(loose)}" if loose else "no expression folders"
        )
        raise UserError(
            f"{path}: expected {prefix.capitalize()} with {faces} faces in folders like Angry; it has {what}"
        )
    raise wrong_root(
        path,
        "SFEW",
        f"folders whose names begin with {' and '.join(p.capitalize() for p in PARTS)}",
        ("train", "val"),
    )


SOURCE = Source(
    "sfew", ABOUT, read, {"faces": "auto, aligned (cut out by the organisers) or original (whole frames)"}
)
