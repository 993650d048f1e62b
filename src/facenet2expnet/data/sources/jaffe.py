"""JAFFE, Japanese Female Facial Expression: ten people, seven expressions."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest, find_pictures
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import a_few, relative, wrong_root
from facenet2expnet.labels import JAFFE_CODES

PICTURES = 213
_NAME = re.compile(r"([A-Z]{2})\.(" + "|".join(JAFFE_CODES) + r")(\d+)\.(\d+)", re.IGNORECASE)

ABOUT = About(
    title="JAFFE (Japanese Female Facial Expression)",
    ask="Zenodo, record 3451524 (access on request, zenodo.org/records/3451524)",
    terms="Non-commercial research; its terms exclude some uses, read them first.",
    tree="""
KA.AN1.39.tiff, KA.AN2.40.tiff, ...      (in the folder or below it, often jaffe/)
""",
    classes="7 (An Di Fe Ha Sa Su Ne).",
    protocol="Ten subjects: --protocol leave-one-subject-out, or subject-groups with ten folds, which is the same.",
    traps=("213 pictures of ten women of one country: too few for a claim about people in general.",),
)


def read(path: Path) -> Manifest:
    """All pictures that are named as JAFFE names them: subject, expression and take, running number.

    Raises:
        UserError: If no picture is named so.
    """
    rows, other = [], []
    for picture in find_pictures(path):
        match = _NAME.fullmatch(picture.stem)
        if match is None:
            other.append(picture.name)
            continue
        subject, code, take, _ = match.groups()
        rows.append(
            {
                "image": relative(picture, path),
                "label": JAFFE_CODES[code.upper()],
                "subject": subject.upper(),
                "frame": int(take),
            }
        )
    if not rows:
        raise wrong_root(path, "JAFFE", "pictures named like KA.AN1.39.tiff")
    notes = [f"{len(rows)} pictures of {len({row['subject'] for row in rows})} subjects were read."]
    if other:
        notes.append(f"{len(other)} pictures are not named as JAFFE's: {a_few(other)}.")
    if len(rows) != PICTURES:
        notes.append(f"The release has {PICTURES} pictures, {len(rows)} are here.")
    return Manifest(pd.DataFrame(rows), path, name="jaffe", notes=tuple(notes))


SOURCE = Source("jaffe", ABOUT, read)
