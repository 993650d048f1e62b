"""Read pictures of every kind as 8-bit RGB; a picture that can't be read gives an error with the reason."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import (
    Image,
    ImageDraw,
    ImageOps,
    ImageSequence,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    UnidentifiedImageError,
    features,
)

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

MAX_PIXELS = 89_478_485
"""Pillow's own limit against decompression bombs: a quarter of a gigabyte at three bytes a pixel."""

MAX_MEGAPIXELS = 1000.0
"""Larger pictures are refused even where they can be read reduced."""

LEAST_REDUCED_PX = 256
"""A picture is not read reduced for speed if its shorter side would be less."""

SMALLER = "save it smaller"

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # we check the size, with our own limit

BACKGROUND = 127
"""Grey level behind transparent pixels: the middle of the range, near zero after the crop contract's mean."""

HEIC_ENDINGS = (".heic", ".heif", ".hif")
"""Pictures of phones that Pillow reads only with the package pillow-heif. They are searched for without it, too, so
that the reason is told."""

FORMATS = (
    "PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "DIB", "MPO", "PCX", "PSD", "QOI", "SGI",
    "TGA",
)  # fmt: skip
"""Pillow's formats of pictures. The others hold no photographs (icons, fonts, weather), or run other programs (EPS)."""

STRIP_ROWS = 256
"""Rows of a picture that are converted together."""

FRAME_S = 0.1
"""Duration of a frame of an animated picture that names none, as browsers have it."""


@cache
def picture_endings() -> tuple[str, ...]:
    """The endings of the files that can be read here: those of `FORMATS` that this Pillow knows, and HEIC."""
    Image.init()
    lacking = {name for name, codec in {"JPEG2000": "jpg_2000", "AVIF": "avif"}.items() if not features.check(codec)}
    known = Image.registered_extensions()
    opened = {*Image.OPEN, "MPO"} - lacking  # the JPEG reader opens MPO
    readable = [name for name in FORMATS if name in opened]
    return (*sorted(ending for ending in known if known[ending] in readable), *HEIC_ENDINGS)


def endings_text() -> str:
    """The usual endings, for messages, and how many others can be read."""
    usual = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
    return f"{', '.join(usual)} and {len(set(picture_endings()) - set(usual))} more"


class Skipped(NamedTuple):
    """A picture that was skipped, and the reason."""

    image: str
    reason: str


def read_picture(path: Path | BinaryIO, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB; see `read_reduced`."""
    return read_reduced(path, max_megapixels)[0]


def read_reduced(
    path: Path | BinaryIO, max_megapixels: float = MAX_MEGAPIXELS, jpeg_reduce: int = 1
) -> tuple[np.ndarray, int]:
    """Read a picture as (H, W, 3) uint8 RGB, and how many times smaller that is than the picture: 1, 2, 4, 8, …

    Without `jpeg_reduce`, only a picture of more than `MAX_PIXELS` is reduced, if its format is JPEG (not progressive)
    or JPEG 2000, which can be read so without holding it whole. In other formats it is refused.

    Grey and palette pictures become RGB, CMYK is converted, deeper values become 8-bit (see `eight_bit`), transparent
    pixels get a mid-grey background, the EXIF orientation is applied, and only the first frame of several is read.

    Args:
        path: a file, or an open one.
        max_megapixels: larger pictures are refused, whatever their format.
        jpeg_reduce: read a JPEG file up to so many times smaller, 1, 2, 4 or 8, as long as `LEAST_REDUCED_PX` pixels a
            side are left.
    Raises:
        UserError: With the reason: not found, no permission, zero bytes, not a picture, truncated, too large.
    """
    if not isinstance(path, str | Path):
        return _decode(path, max_megapixels, jpeg_reduce=jpeg_reduce)
    path = Path(path)
    with _reasons():
        if path.is_dir():
            raise UserError("is a folder, not a picture")
        if path.suffix.lower() in HEIC_ENDINGS:
            _register_heic()
        with path.open("rb") as file:
            return _decode(file, max_megapixels, jpeg_reduce=jpeg_reduce)


def decode_picture(file: BinaryIO, formats: tuple[str, ...] | None = None) -> np.ndarray:
    """Decode an open picture file as (H, W, 3) uint8 RGB, as `read_picture` does; never reduced.

    Args:
        file: at its beginning.
        formats: Pillow's names of the formats that are tried; None for all.
    Raises:
        UserError: With the reason, as for `read_picture`; or if it has more than `MAX_PIXELS`, in any format.
    """
    return _decode(file, None, formats)[0]


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn what the file system says into a UserError with the reason."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError("was not found") from error
    except PermissionError as error:
        raise UserError("can't be opened: no read permission") from error
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror or error}") from error


def _decode(
    file: BinaryIO, max_megapixels: float | None, formats: tuple[str, ...] | None = None, jpeg_reduce: int = 1
) -> tuple[np.ndarray, int]:
    """Read an open file, by default of any format; see `read_reduced`. Without `max_megapixels` it is never reduced."""
    try:
        head = file.read(12)
        if not head:
            raise UserError("is empty (zero bytes)")
        if formats is None and _is_heic(head):
            _register_heic()
        file.seek(0)
        with _opened(file, head, formats) as image:
            reduced = _reduce(image, max_megapixels, jpeg_reduce)
            deep_colour = reduced == 1 and _has_deep_colour(image)
            image.load()
            if deep_colour and np.asarray(image)[..., :3].max() <= 1:  # Pillow keeps the upper 8 bits of colours only
                image = _lower_bits(file, image)
            ImageOps.exif_transpose(image, in_place=True)  # a copy would double the memory
            return _to_rgb(image), reduced
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"does not fit in the free memory; {SMALLER}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"is not a picture that can be read ({endings_text()})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise UserError(f"is damaged or truncated: {error}") from error


def _opened(file: BinaryIO, head: bytes, formats: tuple[str, ...] | None) -> Image.Image:
    """Open a picture; one that is too large for Pillow's own check only if it can be read reduced."""
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        file.seek(0)
        if head.startswith(b"\xff\xd8\xff"):
            return JpegImagePlugin.JpegImageFile(file)
        if head[4:8] == b"jP  " or head.startswith(b"\xff\x4f\xff\x51"):
            return Jpeg2KImagePlugin.Jpeg2KImageFile(file)
        raise UserError(f"is too large: the limit is {MAX_PIXELS:,} pixels; {SMALLER}") from error


def _reduce(image: Image.Image, max_megapixels: float | None, jpeg_reduce: int) -> int:
    """Prepare an opened picture to be read reduced, if it is to be; return how many times smaller it will be.

    Raises:
        UserError: If it is larger than it may be.
    """
    (width, height), reduced = image.size, 1
    if max_megapixels is None:
        if width * height > MAX_PIXELS:
            raise UserError(f"is too large: {width} x {height} pixels, the limit is {MAX_PIXELS:,} pixels; {SMALLER}")
        return reduced
    if width * height > max_megapixels * 1e6:
        limit = f"the limit is {max_megapixels:g} megapixels"
        raise UserError(f"is too large: {width} x {height} pixels, {limit}; {SMALLER}")
    jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    while jpeg and 2 * reduced <= jpeg_reduce and min(width, height) >= 2 * reduced * LEAST_REDUCED_PX:
        reduced *= 2
    while width * height > MAX_PIXELS * reduced**2:
        reduced *= 2
    if reduced == 1:
        return reduced
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
        image.reduce = reduced.bit_length() - 1
        return reduced
    if jpeg and not (width * height > MAX_PIXELS and image.info.get("progressive")):
        image.draft(None, (width // reduced, height // reduced))
    if image.size != (width, height):
        return reduced
    _check_size(image)
    return 1


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
        raise UserError(
            f"is too large: {width} x {height} pixels, the limit is {MAX_PIXELS:,} pixels for {image.format}; "
            f"{SMALLER}, or as plain JPEG, of which larger ones are read reduced"
        )


def _is_heic(head: bytes) -> bool:
    """Whether the first 12 bytes of a file are those of HEIC, whatever its name is: some programs rename it to .jpg."""
    return head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")


def _register_heic() -> None:
    if importlib.util.find_spec("pillow_heif") is None:
        raise UserError("is a HEIC picture; to read it, pip install 'facenet2expnet[heic]', or save it as JPEG")
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


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Bring 16-bit, 32-bit and floating-point grey values to 0..255 uint8; the values decide what white is.

    White is 255 if no value is above that, as many programs store 8-bit pictures in deeper ones; else 65535, else the
    largest value. A floating-point picture without a value above 1 counts as 0..1. NaN and negative values are black,
    infinite ones white.
    """
    strips = [slice(row, row + STRIP_ROWS) for row in range(0, len(values), STRIP_ROWS)]
    highest = max((values[rows][np.isfinite(values[rows])].max(initial=0) for rows in strips), default=0)
    if np.issubdtype(values.dtype, np.floating) and highest <= 1:
        white = 1.0
    else:
        white = next((limit for limit in (255.0, 65535.0) if highest <= limit), float(highest))
    found = np.empty(values.shape, np.uint8)
    for rows in strips:
        numbers = np.nan_to_num(values[rows].astype(np.float64), nan=0.0, posinf=white, neginf=0.0)
        found[rows] = np.clip(np.rint(numbers / white * 255), 0, 255)
    return found


def _has_deep_colour(image: Image.Image) -> bool:
    """Whether a file that is not decoded yet has, or may have, colours or grey and alpha of 16 bits."""
    if image.mode[0] == "I" or image.format == "JPEG2000":
        return image.mode[0] != "I"
    tiles = getattr(image, "tile", ())
    parts = [part for tile in tiles for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    return any(";16" in part if isinstance(part, str) else image.format == "PPM" and part > 255 for part in parts)


def _lower_bits(file: BinaryIO, image: Image.Image) -> Image.Image:
    """The picture again, from the lower 8 bits of its colours, where the upper ones are 0."""
    import cv2

    file.seek(0)
    deep = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.shape[:2] != (image.height, image.width):
        return image
    channels = deep.reshape(*deep.shape[:2], -1)[..., : 1 if image.mode == "LA" else 3]
    if channels.max() > 255:
        return image
    colours = np.repeat(channels[..., :1], 3, axis=2) if channels.shape[2] < 3 else channels[..., ::-1]
    lower = Image.fromarray(colours.astype(np.uint8))
    if "A" in image.mode:
        alpha = np.asarray(deep[..., -1] if deep.ndim == 3 and deep.shape[2] in (2, 4) else np.asarray(image)[..., -1])
        lower.putalpha(Image.fromarray((alpha if alpha.max() <= 255 else alpha // 257).astype(np.uint8)))
    lower.info = {key: value for key, value in image.info.items() if key == "exif"}
    return lower


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a picture of Pillow, of any mode, to (H, W, 3) uint8 RGB."""
    return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert any Pillow mode to (H, W, 3) uint8, in strips so that memory holds the picture and the result alone."""
    if image.mode[0] in "IF":
        return np.repeat(eight_bit(np.asarray(image))[:, :, None], 3, axis=2)
    width, height = image.size
    found = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP_ROWS):
        strip = image.crop((0, top, width, min(top + STRIP_ROWS, height)))
        found[top : top + STRIP_ROWS] = np.asarray(_on_grey(strip))
    return found


def _on_grey(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB, with a grey background where it is transparent."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(background, image)
    return image if image.mode == "RGB" else image.convert("RGB")
