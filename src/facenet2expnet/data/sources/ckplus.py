"""CK+, the Extended Cohn-Kanade set: sequences from neutral to the peak of an expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES, EXPRESSIONS, canonical

CLASSES = {
    8: EXPRESSIONS,
    7: tuple(name for name in EXPRESSIONS if name != "neutral"),
    6: tuple(name for name in EXPRESSIONS if name not in ("neutral", "contempt")),
}
IMAGES, EMOTION = "cohn-kanade-images", "Emotion"
OF_CLASSES = r"(?:.*/)?(?P<label>[^/]+)/(?P<subject>S[0-9]+)_(?P<number>[0-9]+)_(?P<frame>[0-9]+)\.[^/.]+"
"""CK+48 and its like: folders of classes, anger/S010_004_00000017.png."""
PATTERN = rf"(?P<folder>(?:.*/)?(?:extended-)?{IMAGES})/(?P<sequence>(?P<subject>[^/]+)/[^/]+)/[^/]+"


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
    table, _ = layout.matching(path, PATTERN)
    emotions = layout.child(path, f"Emotion_labels/{EMOTION}", EMOTION)
    if not len(table) and emotions is None:
        faces, _ = layout.matching(path, OF_CLASSES)
        if len(faces) and faces["label"].map(canonical).notna().any():
            return _read_class_folders(path, faces, wanted)
    if not len(table) and emotions is None:
        raise layout.wrong_root(path, "CK+", f"the folders {IMAGES} and {EMOTION}", (IMAGES, EMOTION))
    if not len(table) or emotions is None:
        missing = f"pictures in {IMAGES}" if emotions is not None else f"folder {EMOTION}"
        raise UserError(
            f"{path}: half of CK+ is missing: no {missing}; unpack the pictures and Emotion_labels.zip there"
        )
    table = layout.numbered(table[table["folder"] == table["folder"].iloc[0]], frames)
    labels = _labels(emotions)
    table["label"] = [labels.get(name, "") for name in table["sequence"].str.lower()]
    sequences = table.drop_duplicates("sequence")
    odd = sequences[~sequences["label"].isin(("", *EXPRESSIONS))]
    damaged = list(odd["sequence"] + " (" + odd["label"] + ")")
    unlabelled = (sequences["label"] == "").sum()
    first = (table["frame"] == 1) & ("neutral" in wanted)
    table = table[table["label"].isin(wanted) & (first | table["last"])]
    if not len(table):
        raise UserError(
            f"{path}: no labelled sequence was found ({unlabelled} without an emotion file); is the download complete? "
            "Expected Emotion/S005/001/S005_001_00000011_emotion.txt"
        )
    table["label"] = table["label"].mask(first, "neutral")
    count, short = table["sequence"].nunique(), list(table["sequence"][table["size"] <= frames].unique())
    empty = [name.upper() for name in labels if name not in set(sequences["sequence"].str.lower())]
    notes = (
        f"{count} labelled sequences were read; {unlabelled} have no emotion file and were left out.",
        *layout.counted(empty, "sequences with an emotion file hold no picture"),
        *layout.counted(short, f"sequences have {frames} frames or fewer"),
        *layout.counted(damaged, "emotion files hold no code from 0 to 7"),
        *(layout.incomplete(count, 327, "labelled sequences") if wanted == EXPRESSIONS else ()),
    )
    return Manifest(table.drop(columns=["folder", "size", "last"]), path, name="ckplus", notes=notes)


def _read_class_folders(path: Path, table: pd.DataFrame, wanted: Sequence[str]) -> Manifest:
    """The form with a folder for each class; subjects and sequences are in the names of the pictures."""
    labels = table["label"].map(canonical)
    other = sorted(set(table["label"][labels.isna()]))
    table = table.assign(
        label=labels, subject=table["subject"].str.upper(), frame=table["frame"].astype(int).astype(str),
        sequence=table["subject"].str.upper() + "/" + table["number"],
    )[labels.isin(wanted)]  # fmt: skip
    if not len(table):
        raise UserError(
            f"{path}: no folder of the classes {', '.join(wanted)} with CK+'s pictures; it has {', '.join(other)}"
        )
    notes = (
        f"{len(table)} pictures of {table['subject'].nunique()} subjects were read from folders of classes.",
        *layout.counted(other, "folders are no expression"),
        *([] if (table["label"] == "neutral").any() or "neutral" not in wanted else ["There is no neutral picture."]),
    )
    return Manifest(table.drop(columns="number"), path, name="ckplus", notes=notes)


def _labels(emotions: Path) -> dict[str, str]:
    """Sequence in lower case -> its expression, or the text of its emotion file if that is not a code."""
    found: dict[str, str] = {}
    for file in sorted(emotions.glob("*/*/[!.]*"), key=lambda file: natural_key(str(file))):
        if file.suffix.lower() == ".txt":
            text = file.read_text(encoding="utf-8-sig", errors="replace").strip()
            try:
                label = CKPLUS_CODES.get(int(float(text.replace(",", "."))), text)
            except (ValueError, OverflowError):
                label = text or "empty"
            found.setdefault(f"{file.parts[-3]}/{file.parts[-2]}".lower(), label)
    return found


OPTIONS = {"classes": "8, 7, 6, or names separated by commas", "frames": "number of last frames that have the label"}
SOURCE = Source("ckplus", "CK+ (Extended Cohn-Kanade)", read, OPTIONS)
