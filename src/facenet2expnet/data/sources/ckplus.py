"""CK+, the Extended Cohn-Kanade set: sequences from neutral to the peak of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import (
    a_few,
    child,
    choose_classes,
    deep_child,
    listed,
    pictures_in,
    relative,
    subfolders,
    wrong_root,
)
from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES, EXPRESSIONS

SEQUENCES_LABELLED = 327
CLASSES = {
    8: EXPRESSIONS,
    7: tuple(name for name in EXPRESSIONS if name != "neutral"),
    6: tuple(name for name in EXPRESSIONS if name not in ("neutral", "contempt")),
}

ABOUT = About(
    title="CK+ (Extended Cohn-Kanade)",
    ask="Affect Analysis Group, University of Pittsburgh: fill in the agreement on www.jeffcohn.net/resources",
    terms="Research only, by signed agreement; only some subjects' faces may be printed.",
    tree="""
cohn-kanade-images/S005/001/S005_001_00000001.png, ...
Emotion/S005/001/S005_001_00000011_emotion.txt      (or Emotion_labels/Emotion/...)
""",
    classes="8 (An Co Di Fe Ha Sa Su Ne), 7 (without neutral), 6 (without neutral and contempt), or any names.",
    protocol="Ten groups of subjects by ascending ID, each tested once (the paper's): --protocol subject-groups.",
    traps=(
        "593 sequences, 327 with an emotion file: only these count, 118 subjects.",
        "The paper takes the last three frames as the expression and the first as neutral: 1,308 pictures, 8 classes.",
        "The label belongs to the peak; earlier frames are weaker and were not labelled.",
        "Random folds put frames of one person, even of one sequence, on both sides: 99 % means nothing then.",
    ),
)


def read(path: Path, classes: int | str | Sequence[str] = 8, frames: int = 3) -> Manifest:
    """The labelled sequences' last frames under their label, and their first frame as neutral.

    Args:
        classes: 8, 7 (no neutral), 6 (no neutral, no contempt) or names; sequences of other classes are left
            out whole, their neutral frame included.
        frames: how many of the last frames show the expression.
    Raises:
        UserError: If this is not CK+, or not one labelled sequence is there.
    Source: FN2EN, section IV-C.
    """
    wanted = choose_classes(classes, CLASSES)
    if frames < 1:
        raise UserError(f"frames is {frames}, expected 1 or more")
    pictures = child(path, "cohn-kanade-images", "extended-cohn-kanade-images")
    if pictures is not None:
        pictures = child(pictures, "cohn-kanade-images") or pictures
    emotions = deep_child(path, "Emotion_labels", "Emotion") or child(path, "Emotion")
    if pictures is None or emotions is None:
        raise _not_ckplus(path, pictures, emotions)
    rows, notes, unlabelled = [], [], 0
    empty, short, damaged = [], [], []
    for subject in subfolders(pictures):
        for sequence in subfolders(subject):
            name = f"{subject.name}/{sequence.name}"
            label = _label(emotions, subject.name, sequence.name)
            if label is None:
                unlabelled += 1
            elif label not in EXPRESSIONS:
                damaged.append(f"{name} ({label})")
            elif label in wanted:
                found = pictures_in(sequence)
                if not found:
                    empty.append(name)
                    continue
                if len(found) <= frames:
                    short.append(name)
                rows += _rows(path, subject.name, name, found, label, frames, "neutral" in wanted)
    if not rows:
        raise UserError(
            f"{path}: no labelled sequence was found ({unlabelled} without an emotion file, {len(empty)} without "
            f"pictures); is the download complete? Expected {ABOUT.tree.strip().splitlines()[1]}"
        )
    counted = len({row["sequence"] for row in rows})
    notes.append(
        f"{counted} labelled sequences were read; {unlabelled} have no emotion file and were left out."
    )
    if empty:
        notes.append(f"{len(empty)} labelled sequences hold no picture: {a_few(empty)}.")
    if short:
        notes.append(f"{len(short)} sequences have {frames} frames or fewer: {a_few(short)}.")
    if damaged:
        notes.append(f"{len(damaged)} emotion files hold no code from 0 to 7: {a_few(damaged)}.")
    orphans = _orphans(emotions, pictures)
    if orphans:
        notes.append(
            f"{len(orphans)} sequences have an emotion file but no pictures: {a_few(orphans)}; "
            "the download of the pictures seems to be incomplete."
        )
    if counted < SEQUENCES_LABELLED and wanted == EXPRESSIONS:
        notes.append(f"The release has {SEQUENCES_LABELLED} labelled sequences, {counted} are here.")
    order = tuple(name for name in wanted if any(row["label"] == name for row in rows))
    return Manifest(pd.DataFrame(rows), path, order, name="ckplus", notes=tuple(notes))


def _rows(
    root: Path, subject: str, sequence: str, found: list[Path], label: str, frames: int, neutral: bool
) -> list[dict[str, object]]:
    """The first frame as neutral (if wanted), the last ones as the expression; no frame twice."""
    last = found[max(1, len(found) - frames) :] if neutral else found[-frames:]
    chosen = [(found[0], "neutral")] if neutral else []
    chosen += [(picture, label) for picture in last]
    return [
        {
            "image": relative(picture, root),
            "label": name,
            "subject": subject,
            "sequence": sequence,
            "frame": found.index(picture) + 1,
        }
        for picture, name in chosen
    ]


def _label(emotions: Path, subject: str, sequence: str) -> str | None:
    """The sequence's expression, None without an emotion file, the file's text where it is no code."""
    folder = deep_child(emotions, subject, sequence)
    files = (
        [p for p in listed(folder) if p.name.lower().endswith(".txt")] if folder and folder.is_dir() else []
    )
    if not files:
        return None
    text = files[0].read_text(encoding="utf-8", errors="replace").strip()
    try:
        return CKPLUS_CODES.get(int(float(text)), text)
    except ValueError:
        return text or "empty"


def _orphans(emotions: Path, pictures: Path) -> list[str]:
    """Sequences with an emotion file but no folder of pictures."""
    there = {
        f"{subject.name}/{sequence.name}".lower()
        for subject in subfolders(pictures)
        for sequence in subfolders(subject)
    }
    labelled = [
        f"{subject.name}/{sequence.name}"
        for subject in subfolders(emotions)
        for sequence in subfolders(subject)
        if any(p.suffix.lower() == ".txt" for p in listed(sequence))
    ]
    return [name for name in labelled if name.lower() not in there]


def _not_ckplus(path: Path, pictures: Path | None, emotions: Path | None) -> UserError:
    if path.is_dir() and pictures is None and emotions is None:
        looks = [p for p in subfolders(path) if p.name[:1].upper() == "S" and p.name[1:].isdecimal()]
        if looks and path.name.lower() not in ("emotion", "cohn-kanade-images"):
            return UserError(
                f"{path}: this looks like CK+'s image folder (it holds {looks[0].name}); give its parent, "
                f"{path.resolve().parent}, with the folder named cohn-kanade-images"
            )
    if pictures is not None:
        return UserError(
            f"{path} has CK+'s pictures but not its emotion files; unpack Emotion_labels.zip beside "
            f"{pictures.name}, so that {path / 'Emotion'} exists"
        )
    if emotions is not None:
        return UserError(
            f"{path} has CK+'s emotion files but not its pictures; unpack them to {path / 'cohn-kanade-images'}"
        )
    return wrong_root(
        path, "CK+", "the folders cohn-kanade-images and Emotion", ("cohn-kanade-images", "Emotion")
    )


SOURCE = Source(
    "ckplus",
    ABOUT,
    read,
    {
        "classes": "8, 7, 6, or names separated by commas",
        "frames": "how many of the last frames show the expression",
    },
)
