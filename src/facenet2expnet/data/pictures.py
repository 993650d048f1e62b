"""Read pictures of every kind as 8-bit RGB; a picture that can't be read gives an error with the reason."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps, ImageSequence, UnidentifiedImageError

from facenet2expnet.data.manifest import PICTURE_ENDINGS
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs: a quarter of a gigabyte at three bytes a pixel."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # we check the size, with our own limit

BACKGROUND = 127
"""Grey level behind transparent pixels: the middle of the range, near zero after the crop contract's mean."""

HEIC_ENDINGS = (".heic", ".heif")
"""Pictures of phones that Pillow reads only with the package pillow-heif."""

FRAME_S = 0.1
"""Duration of a frame of an animated picture that names none, as browsers have it."""


class Skipped(NamedTuple):
    """A picture that was skipped, and the reason."""

    image: str
    reason: str


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB.

    Grey and palette pictures become RGB, CMYK is converted, 16-bit values become 8-bit (65535 -> 255),
    transparent pixels get a mid-grey background, the EXIF orientation is applied, and only the first frame of
    several is read. A 32-bit float picture counts as 0..1 if it has no value above 1, else as 0..255.

    Raises:
        UserError: With the reason: not found, no permission, zero bytes, not a picture, truncated, too large.
    """
    path = Path(path)
    with _reasons():
        if path.is_dir():
            raise UserError("is a folder, not a picture")
        if path.stat().st_size == 0:
            raise UserError("is empty (zero bytes)")
        if path.suffix.lower() in HEIC_ENDINGS:
            _register_heic()
        with Image.open(path) as image:
            return _decode(image)


def decode_picture(file: IO[bytes], formats: tuple[str, ...] | None = None) -> np.ndarray:
    """Decode an open picture file as (H, W, 3) uint8 RGB, as `read_picture` does.

    Args:
        file: at its beginning.
        formats: Pillow's names of the formats that are tried; None for all.
    Raises:
        UserError: With the reason, as for `read_picture`.
    """
    with _reasons(), Image.open(file, formats=formats) as image:
        return _decode(image)


def _decode(image: Image.Image) -> np.ndarray:
    _check_size(image)
    image.load()
    return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn what goes wrong with a picture into a UserError with the reason."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError("was not found") from error
    except PermissionError as error:
        raise UserError("can't be opened: no read permission") from error
    except UnidentifiedImageError as error:
        raise UserError(f"is not a picture that can be read ({', '.join(PICTURE_ENDINGS)})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        kind = "too large" if isinstance(error, Image.DecompressionBombError) else "damaged or truncated"
        raise UserError(f"is {kind}: {error}") from error


def count_frames(path: Path) -> int:
    """Return the number of frames of a picture file, above 1 for an animated one; 1 if it can't be read."""
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG") else 1
    except Exception:  # the error comes, with its reason, when the picture is read
        return 1


def read_animation(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the time in seconds and the pixels, (H, W, 3) uint8 RGB, of each frame of an animated picture.

    Raises:
        UserError: If a frame is damaged, after the frames before it.
    """
    time_s = 0.0
    try:
        with Image.open(path) as image:
            _check_size(image)
            for frame in ImageSequence.Iterator(image):
                duration_ms = frame.info.get("duration") or FRAME_S * 1000  # WebP knows it after decoding
                yield time_s, np.ascontiguousarray(_to_rgb(frame.copy()))
                time_s += float(frame.info.get("duration") or duration_ms) / 1000
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"is damaged or truncated: {error}") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"is too large: {width} x {height} pixels, the limit is {MAX_PIXELS} pixels")


def _register_heic() -> None:
    if importlib.util.find_spec("pillow_heif") is None:
        raise UserError("is a HEIC picture; to read it, pip install pillow-heif, or save it as JPEG")
    importlib.import_module("pillow_heif").register_heif_opener()


def png_bytes(picture: np.ndarray) -> bytes:
    """Encode a grey (H, W) or RGB (H, W, 3) uint8 picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_skipped(skipped: Sequence[Skipped], path: Path) -> None:
    """Write skipped.csv with the columns image and reason."""
    import pandas as pd

    text = pd.DataFrame(skipped, columns=["image", "reason"]).to_csv(index=False, lineterminator="\n")
    write_atomic(path, text.encode("utf-8", "surrogateescape"))


def write_contact_sheet(paths: Sequence[Path], title: str, path: Path, *, limit: int = 200) -> None:
    """Write a PNG with a title and small pictures with their file names; unreadable ones are grey."""
    tile, caption, columns, rows = 128, 14, min(10, len(paths)), -(-min(len(paths), limit) // 10)
    sheet = Image.new("RGB", (columns * tile, caption + rows * (tile + caption)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 0), title + (f", the first {limit} shown" if len(paths) > limit else ""), fill="black")
    for number, picture_path in enumerate(paths[:limit]):
        try:
            picture = Image.fromarray(read_picture(picture_path))
        except UserError:
            picture = Image.new("RGB", (tile, tile), "grey")
        x, y = number % columns * tile, caption + number // columns * (tile + caption)
        sheet.paste(ImageOps.pad(picture, (tile, tile), color="white"), (x, y))
        draw.text((x + 2, y + tile), picture_path.name[-20:], fill="black")
    write_atomic(path, png_bytes(np.asarray(sheet)))


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert any Pillow mode to (H, W, 3) uint8."""
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        if image.mode[0] == "I":
            values = values / max(65535.0, values.max()) * 255
        elif values.max() <= 1:
            values = values * 255
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(background, image)
    return np.asarray(image.convert("RGB"))
