"""The bundled sample: rendered faces in CK+'s shape, and CK+'s own layout made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES

SAMPLE_COLUMNS = ("image", "label", "subject", "sequence", "frame", "intensity")


@dataclass(frozen=True)
class CkplusExport:
    """What `export_ckplus` wrote.

    Attributes:
        folder: The folder that holds `cohn-kanade-images` and `Emotion`.
        subjects: Number of subject folders.
        sequences: Number of labelled sequences, one emotion file each.
        pictures: Number of PNG files.
    """

    folder: Path
    subjects: int
    sequences: int
    pictures: int


def sample_folder() -> Path:
    """Folder of the bundled sample; holds `manifest.csv`, the pictures and the licence note."""
    return Path(__file__).resolve().parent / "sample"


def read_sample() -> pd.DataFrame:
    """The bundled sample's table, one row a picture.

    Returns:
        Columns `SAMPLE_COLUMNS`: image (path from `sample_folder()`), label, subject and sequence (text; a
        sequence's name counts within its subject), frame (whole number from 1), intensity (0 for neutral,
        1 for a full expression).
    """
    text = {"image": str, "label": str, "subject": str, "sequence": str}
    return pd.read_csv(sample_folder() / "manifest.csv", dtype=text, keep_default_na=False)


def export_ckplus(folder: Path) -> CkplusExport:
    """Write the bundled sample in the layout of CK+'s own archives.

    Pictures go to `cohn-kanade-images/S001/001/S001_001_00000001.png` and so on: a sequence's neutral first
    picture and its last three. Each sequence's code goes to `Emotion/S001/001/`, in a file named after the
    last picture. Two things differ from CK+: the pictures between are not there, and every sequence has a code.

    Args:
        folder: A new or empty folder.
    Raises:
        UserError: If the folder holds something already or is no folder.
    Source: P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010, and its ReadMe.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"expected a folder to export to, got a file: {folder}; name another place")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"expected a new or empty folder to export to, got one that holds files: {folder}; name another"
        )
    codes = {label: code for code, label in CKPLUS_CODES.items()}
    table = read_sample()
    sequences = 0
    for (subject, sequence), rows in table.groupby(["subject", "sequence"], sort=True):
        pictures = folder / "cohn-kanade-images" / str(subject) / str(sequence)
        pictures.mkdir(parents=True)
        for image in rows["image"]:
            with Image.open(sample_folder() / image) as picture:
                picture.convert("RGB").save(pictures / f"{Path(image).stem}.png", compress_level=1)
        last = rows.sort_values("frame").iloc[-1]
        emotion = folder / "Emotion" / str(subject) / str(sequence)
        emotion.mkdir(parents=True)
        # CK+ writes the code as a float with seven decimals.
        text = f"   {codes[str(last['label'])]:.7e}\n"
        (emotion / f"{Path(str(last['image'])).stem}_emotion.txt").write_text(text, encoding="ascii")
        sequences += 1
    return CkplusExport(folder, int(table["subject"].nunique()), sequences, len(table))
