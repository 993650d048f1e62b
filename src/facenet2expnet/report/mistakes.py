"""The pictures that a method got wrong with the highest probability."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from facenet2expnet.data.pictures import read_picture
from facenet2expnet.errors import UserError


def surest_mistakes(predictions: pd.DataFrame, method: str, count: int) -> pd.DataFrame:
    """The wrong predictions of a method, the surest first, each picture once.

    Returns:
        Columns image, subject ("" where unknown), fold, truth, predicted, probability (of the predicted class),
        truth_probability; at most `count` rows.
    """
    rows = predictions[predictions["method"].astype(str) == method]
    rows = rows[rows["truth"].notna() & (rows["truth"].astype(str) != "")]
    rows = rows[rows["truth"].astype(str) != rows["predicted"].astype(str)]
    columns = ["image", "subject", "fold", "truth", "predicted"]
    table = pd.DataFrame(
        {name: rows[name].fillna("").astype(str) if name in rows else "" for name in columns}
    )
    for name, of in (("probability", "predicted"), ("truth_probability", "truth")):
        cells = rows.to_dict("records")
        table[name] = [float(row.get(f"p_{row[of]}", np.nan)) for row in cells]
    table = table.sort_values(["probability", "image"], ascending=[False, True], kind="stable")
    return table.drop_duplicates("image").head(count).reset_index(drop=True)


def thumbnail(path: Path, side_px: int = 144) -> tuple[str | None, str]:
    """A small JPEG of a picture as a data URI, at most `side_px` on its longer side; or None and why not."""
    try:
        picture = Image.fromarray(read_picture(path))
    except UserError as fault:
        return None, str(fault)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), ""
