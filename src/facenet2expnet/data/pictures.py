"""Pictures of any format as 8-bit RGB, and the list of those that can't be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from facenet2expnet.data.manifest import PICTURE_ENDINGS
from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path

PIXELS_MOST = 89_478_485
"""Pillow's own limit against decompression bombs."""

BACKGROUND = 127
"""Grey level behind transparent pixels: the middle of the range."""


@dataclass(frozen=True)
class Skipped:
    """A picture that was left out, and the reason."""

    image: str
    reason: str


def read_picture(path: Path) -> np.ndarray:
    """Read a picture of any format as (H, W, 3) uint8 RGB.

    Grey, palette and CMYK pictures are converted, 16-bit values become 8-bit (65535 -> 255), transparent pixels
    are blended with mid-grey, the EXIF orientation is applied, and of several frames the first is read. A 32-bit
    float picture has the range 0..1 if it has no value above 1, else 0..255.

    Raises:
        UserError: With the reason: missing, no permission, zero bytes, not a picture, truncated, too large.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError("is a folder, not a picture")
        if path.stat().st_size == 0:
            raise UserError("is empty (zero bytes)")
        with Image.open(path) as image:
            width, height = image.size
            if width * height > PIXELS_MOST:
                raise UserError(f"is too large: {width} x {height} pixels, at most {PIXELS_MOST} are read")
            image.load()
            return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as fault:
        raise UserError("was not found") from fault
    except PermissionError as fault:
        raise UserError("can't be opened: no read permission") from fault
    except UnidentifiedImageError as fault:
        raise UserError(f"is not a picture that can be read ({', '.join(PICTURE_ENDINGS)})") from fault
    except Image.DecompressionBombError as fault:
        raise UserError(f"is too large: at most {PIXELS_MOST} pixels are read") from fault
    except Exception as fault:  # Pillow's decoders raise many kinds on damaged bytes
        raise UserError(f"is damaged or truncated: {fault}") from fault


def fit_square(picture: np.ndarray, size_px: int) -> np.ndarray:
    """The middle square of an (H, W, 3) uint8 picture, resized to (size_px, size_px, 3)."""
    import cv2

    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    if side == size_px:
        return square
    how = cv2.INTER_AREA if side > size_px else cv2.INTER_CUBIC
    return cv2.resize(square, (size_px, size_px), interpolation=how)


def png_bytes(picture: np.ndarray) -> bytes:
    """Encode a grey (H, W) or RGB (H, W, 3) uint8 picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """Write skipped.csv: image,reason."""
    table = pd.DataFrame([(item.image, item.reason) for item in skipped], columns=["image", "reason"])
    with atomic_path(Path(path)) as temporary:
        table.to_csv(temporary, index=False, errors="surrogateescape")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 from any Pillow mode."""
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        most = max(65535.0, float(values.max()))
        return _grey(values / most * 255)
    if mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        return _grey(values * 255 if values.max() <= 1 else values)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        behind = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(behind, image)
    return np.asarray(image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
