"""JAFFE, Japanese Female Facial Expression: ten people, seven expressions."""

from __future__ import annotations

from pathlib import Path

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.labels import JAFFE_CODES

PATTERN = rf"(?:.*/)?(?P<subject>[A-Z]{{2}})\.(?P<label>{'|'.join(JAFFE_CODES)})(?P<frame>\d+)\.\d+\.\w+"


def read(path: Path) -> Manifest:
    """All pictures with JAFFE's names: subject, expression and take, running number.

    Raises:
        UserError: If no picture has such a name.
    """
    table, other = layout.matching(path, PATTERN)
    if not len(table):
        raise layout.wrong_root(path, "JAFFE", "pictures with names like KA.AN1.39.tiff")
    table["label"] = table["label"].str.upper().map(JAFFE_CODES)
    table["subject"] = table["subject"].str.upper()
    notes = (
        f"{len(table)} pictures of {table['subject'].nunique()} subjects were read.",
        *layout.counted(other, "pictures do not have JAFFE's names"),
        *layout.incomplete(len(table), 213, "pictures"),
    )
    return Manifest(table, path, name="jaffe", notes=notes)


SOURCE = Source("jaffe", "JAFFE (Japanese Female Facial Expression)", read)
