"""The wrong predictions with the highest probability, and thumbnails of their pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pandas as pd
from PIL import Image

from facenet2expnet.data.pictures import read_picture
from facenet2expnet.errors import UserError


def surest_mistakes(predictions: pd.DataFrame, method: str, count: int) -> pd.DataFrame:
    """The wrong predictions of a method, the highest probability first, each picture once.

    Returns:
        Columns image, truth, predicted, probability (of the predicted class), truth_probability; at most `count` rows.
    """
    rows = predictions[predictions["method"].astype(str) == method]
    rows = rows[rows["truth"].notna() & (rows["truth"].astype(str) != "")]
    rows = rows[rows["truth"].astype(str) != rows["predicted"].astype(str)]
    table, records = rows[["image", "truth", "predicted"]].astype(str), rows.to_dict("records")
    for name, of in (("probability", "predicted"), ("truth_probability", "truth")):
        table[name] = [float(record[f"p_{record[of]}"]) for record in records]
    table = table.sort_values(["probability", "image"], ascending=[False, True], kind="stable")
    return table.drop_duplicates("image").head(count).reset_index(drop=True)


def thumbnail(path: Path, side_px: int = 144) -> tuple[str | None, str]:
    """A JPEG of at most `side_px` on the longer side as a data URI and ""; or None and the reason."""
    try:
        picture = Image.fromarray(read_picture(path))
    except UserError as error:
        return None, str(error)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), ""
