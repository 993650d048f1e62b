"""CK+, the Extended Cohn-Kanade set: sequences from neutral to the peak of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES, EXPRESSIONS

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
    layout.check_frames(frames)
    images, emotions = _folders(path)
    labels = {name.lower(): (name, _label(folder)) for name, folder in _sequences(emotions)}
    rows, empty, short, damaged, unlabelled = [], [], [], [], 0
    neutral = int("neutral" in wanted)  # the number of first frames that are neutral
    for name, folder in _sequences(images):
        _, label = labels.pop(name.lower(), (name, ""))
        if not label:
            unlabelled += 1
        elif label not in EXPRESSIONS:
            damaged.append(f"{name} ({label})")
        elif label in wanted:
            found = list(enumerate(layout.pictures_in(folder), start=1))
            chosen = [(*frame, "neutral") for frame in found[:neutral]]
            chosen += [(*frame, label) for frame in found[max(neutral, len(found) - frames) :]]
            rows += [(picture, kind, folder.parent.name, name, number) for number, picture, kind in chosen]
            if not found:
                empty.append(name)
            elif len(found) <= frames:
                short.append(name)
    if not rows:
        raise UserError(
            f"{path}: no labelled sequence was found ({unlabelled} without an emotion file, {len(empty)} without "
            "pictures); is the download complete? Expected Emotion/S005/001/S005_001_00000011_emotion.txt"
        )
    count = len({row[3] for row in rows})
    notes = [
        f"{count} labelled sequences were read; {unlabelled} have no emotion file and were left out.",
        *layout.counted(empty, "labelled sequences hold no picture"),
        *layout.counted(short, f"sequences have {frames} frames or fewer"),
        *layout.counted(damaged, "emotion files hold no code from 0 to 7"),
        *layout.counted(
            [name for name, label in labels.values() if label], "sequences with an emotion file have no folder"
        ),
        *(layout.incomplete(count, 327, "labelled sequences") if wanted == EXPRESSIONS else ()),
    ]
    return layout.manifest("ckplus", path, rows, "image label subject sequence frame", notes)


def _sequences(folder: Path) -> list[tuple[str, Path]]:
    """Name, as S005/001, and folder of each sequence."""
    return [(f"{s.name}/{q.name}", q) for s in layout.subfolders(folder) for q in layout.subfolders(s)]


def _label(folder: Path) -> str:
    """The expression of a sequence, "" without an emotion file, the text of the file if it is not a code."""
    files = [p for p in layout.entries(folder) if p.name.lower().endswith(".txt")]
    if not files:
        return ""
    text = files[0].read_text(encoding="utf-8", errors="replace").strip()
    try:
        return CKPLUS_CODES.get(int(float(text)), text)
    except (ValueError, OverflowError):
        return text or "empty"


def _folders(path: Path) -> tuple[Path, Path]:
    """The folders of pictures and of emotion files."""
    images = layout.child(path, f"{IMAGES}/{IMAGES}", f"extended-{IMAGES}/{IMAGES}", IMAGES, f"extended-{IMAGES}")
    emotions = layout.child(path, "Emotion_labels/Emotion", EMOTION)
    if images is not None and emotions is not None:
        return images, emotions
    if images is not None or emotions is not None:
        missing = EMOTION if emotions is None else IMAGES
        raise UserError(
            f"{path} has only one half of CK+: there is no {missing}; unpack Emotion_labels.zip and the pictures there"
        )
    raise layout.wrong_root(path, "CK+", f"the folders {IMAGES} and {EMOTION}", (IMAGES, EMOTION))


OPTIONS = {"classes": "8, 7, 6, or names separated by commas", "frames": "number of last frames that have the label"}
SOURCE = Source("ckplus", "CK+ (Extended Cohn-Kanade)", read, OPTIONS)
