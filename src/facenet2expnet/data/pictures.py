"""Pictures of every kind to plain 8-bit RGB; those that can't be read are listed, never lost in silence."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from facenet2expnet.data.manifest import PICTURE_ENDINGS
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

PIXELS_MOST = 89_478_485
"""Pillow's own bound against decompression bombs: a quarter of a gigabyte at three bytes a pixel."""

BACKGROUND = 127
"""Grey level behind transparent pixels: the middle of the range, near zero after the crop contract's mean."""


@dataclass(frozen=True)
class Skipped:
    """A picture that was left out, and why."""

    image: str
    reason: str


def read_picture(path: Path) -> np.ndarray:
    """One picture as (H, W, 3) uint8 RGB, whatever its kind.

    Grey and palette pictures become RGB, CMYK is converted, 16-bit values become 8-bit (65535 -> 255),
    transparent pixels are laid over mid-grey, the EXIF orientation is applied, and of several frames the
    first is taken. A 32-bit float picture counts as 0..1 if it has no value above 1, else as 0..255.

    Raises:
        UserError: With the reason: not there, no permission, zero bytes, no picture, truncated, too large.
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
    except Exception as fault:  # Pillow's decoders raise nearly anything on damaged bytes
        raise UserError(f"is damaged or truncated: {fault}") from fault


def read_pictures(
    paths: Sequence[Path],
    size_px: int,
    *,
    workers: int | None = None,
    names: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, list[int], list[Skipped]]:
    """Many pictures, each whole and resized to one size, in the order given.

    A picture that is not square is cut to its middle square first. Shrinking averages areas, growing is
    cubic.

    Args:
        paths: the files.
        size_px: the side of the result.
        workers: threads; by default the number of cores.
        names: what `Skipped.image` says, one a path; by default the path.
        progress: called with 1 after each picture, in the calling thread.
    Returns:
        Pictures (M, size_px, size_px, 3) uint8 RGB; the numbers of the M paths that could be read; the
        others.
    """
    cores = workers or os.cpu_count() or 1
    shown = [str(path) for path in paths] if names is None else list(names)
    pictures = np.zeros((len(paths), size_px, size_px, 3), np.uint8)
    kept: list[int] = []
    skipped: list[Skipped] = []

    def fill(number: int) -> str | None:
        try:
            pictures[number] = fit_square(read_picture(paths[number]), size_px)
        except UserError as fault:
            return str(fault)
        return None

    with ThreadPoolExecutor(cores) as pool:
        for number, reason in enumerate(pool.map(fill, range(len(paths)))):
            if reason is None:
                kept.append(number)
            else:
                skipped.append(Skipped(shown[number], reason))
            if progress is not None:
                progress(1)
    return (pictures[kept] if skipped else pictures), kept, skipped


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
    """A grey (H, W) or RGB (H, W, 3) uint8 picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """Write skipped.csv: image,reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "reason"])
    writer.writerows([item.image, item.reason] for item in skipped)
    write_atomic(Path(path), text.getvalue().encode("utf-8", "surrogateescape"))


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
