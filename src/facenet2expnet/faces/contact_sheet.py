"""Contact sheets: many small pictures with captions on one PNG, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facenet2expnet.data.pictures import read_picture
from facenet2expnet.errors import UserError

CAPTION_PX = 14


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 10,
    tile_px: int = 128,
    title: str = "",
) -> np.ndarray:
    """Pictures in rows, each fitted into a square tile, with a line of text below each.

    Args:
        pictures: (H, W, 3) uint8 RGB each, of any sizes, at least one.
        captions: one a picture, shortened to the tile's width.
        columns: tiles in a row.
        tile_px: side of a tile.
        title: a line at the top.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        ValueError: If there is no picture, or not one caption a picture.
    """
    if not pictures:
        raise ValueError("expected one picture at least, got none")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"expected {len(pictures)} captions, one a picture, got {len(captions)}")
    columns = min(columns, len(pictures))
    cell_h = tile_px + (CAPTION_PX if captions is not None else 0)
    top = CAPTION_PX + 4 if title else 0
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * tile_px, top + rows * cell_h), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    if title:
        draw.text((3, 2), title, fill=(0, 0, 0), font=font)
    for i, picture in enumerate(pictures):
        x, y = (i % columns) * tile_px, top + (i // columns) * cell_h
        tile = Image.fromarray(_fitted(picture, tile_px))
        sheet.paste(tile, (x + (tile_px - tile.width) // 2, y + (tile_px - tile.height) // 2))
        if captions is not None:
            draw.text(
                (x + 2, y + tile_px), _shortened(captions[i], tile_px - 4, font), fill=(0, 0, 0), font=font
            )
    return np.asarray(sheet)


def write_contact_sheet(sheet: np.ndarray, path: Path) -> None:
    """Write a sheet as PNG."""
    Image.fromarray(sheet).save(path, format="PNG")


def write_missing_sheet(paths: Sequence[Path], path: Path, *, most: int = 200) -> None:
    """A contact sheet of the pictures where no face was found, the first `most` of them."""
    pictures, captions = [], []
    for picture_path in paths[:most]:
        try:
            pictures.append(read_picture(picture_path))
        except (UserError, OSError):
            pictures.append(np.full((8, 8, 3), 127, np.uint8))
        captions.append(picture_path.name)
    shown = f", the first {most} shown" if len(paths) > most else ""
    write_contact_sheet(
        contact_sheet(pictures, captions, title=f"no face found: {len(paths)} pictures{shown}"), path
    )


def with_marks(
    pixels: np.ndarray, box_xyxy_px: np.ndarray | None = None, points_px: np.ndarray | None = None
) -> np.ndarray:
    """A copy of a picture (H, W, 3) with a face's box and landmarks drawn in."""
    marked = np.ascontiguousarray(pixels).copy()
    thick = max(1, round(max(pixels.shape[:2]) / 200))
    if box_xyxy_px is not None:
        left, top, right, bottom = (round(float(v)) for v in box_xyxy_px)
        cv2.rectangle(marked, (left, top), (right, bottom), (0, 220, 0), thick)
    for x, y in () if points_px is None else points_px:
        cv2.circle(marked, (round(float(x)), round(float(y))), 2 * thick, (255, 40, 40), -1)
    return marked


def _fitted(picture: np.ndarray, side_px: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    flag = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=flag), dtype=np.uint8)


def _shortened(text: str, width_px: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength("…" + text) > width_px:
        text = text[1:]
    return "…" + text
