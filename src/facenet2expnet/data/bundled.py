"""The bundled sample of rendered faces, and its export in the layout of CK+."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES


def sample_folder() -> Path:
    """The folder of the bundled sample, with `manifest.csv`, the pictures and the licence."""
    return Path(__file__).resolve().parent / "sample"


def read_sample() -> pd.DataFrame:
    """The table of the bundled sample, one row per picture.

    Returns:
        Columns image (path from `sample_folder()`), label, subject, sequence (unique within its subject), frame (from
        1), intensity (0 for neutral, 1 for a full expression).
    """
    text = dict.fromkeys(("image", "label", "subject", "sequence"), str)
    return pd.read_csv(sample_folder() / "manifest.csv", dtype=text, keep_default_na=False)


def export_ckplus(folder: Path) -> None:
    """Write the bundled sample in the layout of CK+.

    Pictures go to `cohn-kanade-images/S001/001/S001_001_00000001.png` and so on: the neutral first picture of a
    sequence and its last three. The code of each sequence goes to `Emotion/S001/001/`, in a file with the name of the
    last picture. Unlike CK+, the pictures between are missing, and every sequence has a code.

    Args:
        folder: a new or empty folder.
    Raises:
        UserError: If the folder is not empty or not a folder.
    Source: P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010, and its ReadMe.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected a new or empty folder for the export; give another folder")
    codes = {label: code for code, label in CKPLUS_CODES.items()}
    for (subject, sequence), rows in read_sample().sort_values("frame").groupby(["subject", "sequence"]):
        pictures = folder / "cohn-kanade-images" / str(subject) / str(sequence)
        pictures.mkdir(parents=True)
        for image in rows["image"]:
            with Image.open(sample_folder() / image) as picture:
                picture.convert("RGB").save(pictures / f"{Path(image).stem}.png", compress_level=1)
        last = rows.iloc[-1]
        emotion = folder / "Emotion" / str(subject) / str(sequence)
        emotion.mkdir(parents=True)
        file = emotion / f"{Path(last['image']).stem}_emotion.txt"
        file.write_text(f"   {codes[last['label']]:.7e}\n", encoding="ascii")  # as CK+ writes it
