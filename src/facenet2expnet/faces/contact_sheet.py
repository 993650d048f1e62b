"""Contact sheet: one PNG with the pictures in which no face was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from facenet2expnet.data.pictures import png_bytes, read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

TILE_PX, CAPTION_PX, TITLE_PX, COLUMNS = 128, 14, 18, 10


def write_missing_sheet(paths: Sequence[Path], path: Path, *, limit: int = 200) -> None:
    """Write a contact sheet of pictures without a found face, with their file names; at most `limit` of them.

    A picture that can't be read gets a grey tile.
    """
    shown = paths[:limit]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    size_wh = (columns * TILE_PX, TITLE_PX + rows * (TILE_PX + CAPTION_PX))
    sheet = Image.new("RGB", size_wh, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    first = f", the first {limit} shown" if len(paths) > limit else ""
    draw.text((3, 2), f"no face found: {len(paths)} pictures{first}", fill="black", font=font)
    for number, picture_path in enumerate(shown):
        x = number % columns * TILE_PX
        y = TITLE_PX + number // columns * (TILE_PX + CAPTION_PX)
        tile = ImageOps.pad(_picture(picture_path), (TILE_PX, TILE_PX), color="white")
        sheet.paste(tile, (x, y))
        name = picture_path.name
        while font.getlength(name) > TILE_PX - 4:
            name = "…" + name.lstrip("…")[1:]
        draw.text((x + 2, y + TILE_PX), name, fill="black", font=font)
    write_atomic(path, png_bytes(np.asarray(sheet)))


def _picture(path: Path) -> Image.Image:
    try:
        return Image.fromarray(read_picture(path))
    except UserError:
        return Image.new("RGB", (TILE_PX, TILE_PX), (127, 127, 127))
