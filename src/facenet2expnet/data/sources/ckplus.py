"""CK+, the Extended Cohn-Kanade set: sequences from neutral to the peak of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES, EXPRESSIONS

SEQUENCES = 327
CLASSES = {
    8: EXPRESSIONS,
    7: tuple(name for name in EXPRESSIONS if name != "neutral"),
    6: tuple(name for name in EXPRESSIONS if name not in ("neutral", "contempt")),
}
IMAGES, EMOTION = "cohn-kanade-images", "Emotion"


def read(path: Path, classes: int | str | Sequence[str] = 8, frames: int = 3) -> Manifest:
    """The last frames of each labelled sequence with its label, and its first frame as neutral.

    Args:
        classes: 8, 7 (no neutral), 6 (no neutral, no contempt) or names; sequences of other classes are left
            out, with their neutral frame.
        frames: number of last frames that have the label.
    Raises:
        UserError: If this is not CK+, or there is no labelled sequence.
    Source: FN2EN, section IV-C.
    """
    wanted = layout.choose_classes(classes, CLASSES)
    if frames < 1:
        raise UserError(f"frames is {frames}, expected 1 or more")
    images, emotions = _folders(path)
    rows, empty, short, damaged, unlabelled, existing = [], [], [], [], 0, set()
    for subject in layout.subfolders(images):
        for sequence in layout.subfolders(subject):
            name = f"{subject.name}/{sequence.name}"
            existing.add(name.lower())
            label = _label(layout.child(emotions, name))
            if not label:
                unlabelled += 1
            elif label not in EXPRESSIONS:
                damaged.append(f"{name} ({label})")
            elif label in wanted:
                found = list(enumerate(layout.pictures_in(sequence), start=1))
                last = found[max(1, len(found) - frames) :] if "neutral" in wanted else found[-frames:]
                chosen = [(picture, label) for picture in last]
                if "neutral" in wanted:
                    chosen = [(picture, "neutral") for picture in found[:1]] + chosen
                rows += [
                    (layout.relative(picture, path), name_of, subject.name, name, number)
                    for (number, picture), name_of in chosen
                ]
                if not found:
                    empty.append(name)
                elif len(found) <= frames:
                    short.append(name)
    if not rows:
        raise UserError(
            f"{path}: no labelled sequence was found ({unlabelled} without an emotion file, {len(empty)} without "
            "pictures); is the download complete? Expected Emotion/S005/001/S005_001_00000011_emotion.txt"
        )
    table = pd.DataFrame(rows, columns=["image", "label", "subject", "sequence", "frame"])
    labelled = [f"{s.name}/{q.name}" for s in layout.subfolders(emotions) for q in layout.subfolders(s) if _label(q)]
    count = table["sequence"].nunique()
    notes = [
        f"{count} labelled sequences were read; {unlabelled} have no emotion file and were left out.",
        *layout.counted(empty, "labelled sequences hold no picture"),
        *layout.counted(short, f"sequences have {frames} frames or fewer"),
        *layout.counted(damaged, "emotion files hold no code from 0 to 7"),
        *layout.counted(
            [n for n in labelled if n.lower() not in existing],
            "sequences with an emotion file have no folder",
        ),
    ]
    if count < SEQUENCES and wanted == EXPRESSIONS:
        notes.append(f"The release has {SEQUENCES} labelled sequences, {count} are here.")
    order = tuple(name for name in wanted if name in set(table["label"]))
    return Manifest(table, path, order, name="ckplus", notes=tuple(notes))


def _label(folder: Path | None) -> str:
    """The expression of a sequence, "" without an emotion file, the text of the file if it is not a code."""
    files = [p for p in layout.entries(folder) if p.name.lower().endswith(".txt")] if folder and folder.is_dir() else []
    if not files:
        return ""
    text = files[0].read_text(encoding="utf-8", errors="replace").strip()
    try:
        return CKPLUS_CODES.get(int(float(text)), text)
    except ValueError:
        return text or "empty"


def _folders(path: Path) -> tuple[Path, Path]:
    """The folders of pictures and of emotion files."""
    images = layout.child(path, f"{IMAGES}/{IMAGES}", f"extended-{IMAGES}/{IMAGES}", IMAGES, f"extended-{IMAGES}")
    emotions = layout.child(path, "Emotion_labels/Emotion", EMOTION)
    if images is not None and emotions is not None:
        return images, emotions
    if images is not None:
        raise UserError(
            f"{path} has CK+'s pictures but not its emotion files; unpack Emotion_labels.zip there, so that "
            f"{path / EMOTION} exists"
        )
    if emotions is not None:
        raise UserError(f"{path} has CK+'s emotion files but not its pictures; unpack them to {path / IMAGES}")
    subjects = [p for p in layout.subfolders(path) if p.name[:1].upper() == "S" and p.name[1:].isdecimal()]
    if subjects and path.name.lower() not in (EMOTION.lower(), IMAGES):
        raise UserError(
            f"{path}: this looks like CK+'s image folder (it holds {subjects[0].name}); give its parent, "
            f"{path.resolve().parent}, and name the folder {IMAGES}"
        )
    raise layout.wrong_root(path, "CK+", f"the folders {IMAGES} and {EMOTION}", (IMAGES, EMOTION))


SOURCE = Source(
    name="ckplus",
    title="CK+ (Extended Cohn-Kanade)",
    reader=read,
    options={
        "classes": "8, 7, 6, or names separated by commas",
        "frames": "number of last frames that have the label",
    },
)
