"""JAFFE, Japanese Female Facial Expression: ten people, seven expressions."""

from __future__ import annotations

import re
from pathlib import Path

from facenet2expnet.data.manifest import Manifest, find_pictures
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.labels import JAFFE_CODES

_NAME = re.compile(r"([A-Z]{2})\.(" + "|".join(JAFFE_CODES) + r")(\d+)\.\d+", re.IGNORECASE)


def read(path: Path) -> Manifest:
    """All pictures with JAFFE's names: subject, expression and take, running number.

    Raises:
        UserError: If no picture has such a name.
    """
    rows, other = [], []
    for picture in find_pictures(path):
        if match := _NAME.fullmatch(picture.stem):
            subject, code, take = match.groups()
            rows.append((picture, JAFFE_CODES[code.upper()], subject.upper(), int(take)))
        else:
            other.append(picture.name)
    if not rows:
        raise layout.wrong_root(path, "JAFFE", "pictures with names like KA.AN1.39.tiff")
    notes = [
        f"{len(rows)} pictures of {len({row[2] for row in rows})} subjects were read.",
        *layout.counted(other, "pictures do not have JAFFE's names"),
        *layout.incomplete(len(rows), 213, "pictures"),
    ]
    return layout.manifest("jaffe", path, rows, "image label subject frame", notes)


SOURCE = Source("jaffe", "JAFFE (Japanese Female Facial Expression)", read)
