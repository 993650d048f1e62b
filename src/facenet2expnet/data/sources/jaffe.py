"""JAFFE, Japanese Female Facial Expression: ten people, seven expressions."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest, find_pictures
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.labels import JAFFE_CODES

PICTURES = 213
_NAME = re.compile(r"([A-Z]{2})\.(" + "|".join(JAFFE_CODES) + r")(\d+)\.(\d+)", re.IGNORECASE)


def read(path: Path) -> Manifest:
    """All pictures with JAFFE's names: subject, expression and take, running number.

    Raises:
        UserError: If no picture has such a name.
    """
    rows, other = [], []
    for picture in find_pictures(path):
        match = _NAME.fullmatch(picture.stem)
        if match is None:
            other.append(picture.name)
        else:
            subject, code, take, _ = match.groups()
            rows.append((layout.relative(picture, path), JAFFE_CODES[code.upper()], subject.upper(), int(take)))
    if not rows:
        raise layout.wrong_root(path, "JAFFE", "pictures with names like KA.AN1.39.tiff")
    table = pd.DataFrame(rows, columns=["image", "label", "subject", "frame"])
    notes = [f"{len(rows)} pictures of {table['subject'].nunique()} subjects were read."]
    notes += layout.counted(other, "pictures do not have JAFFE's names")
    if len(rows) != PICTURES:
        notes.append(f"The release has {PICTURES} pictures, {len(rows)} are here.")
    return Manifest(table, path, name="jaffe", notes=tuple(notes))


SOURCE = Source(
    name="jaffe",
    title="JAFFE (Japanese Female Facial Expression)",
    reader=read,
)
