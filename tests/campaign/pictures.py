"""Damaged pictures: each is read, prepared and predicted, or named with the reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

import tiny
from campaign import mutations
from campaign.mutations import Rng
from campaign.trials import Attempt
from facenet2expnet.data.pictures import read_reduced
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import crop_file
from facenet2expnet.predict.recognizer import Recognizer

FORMATS = {
    "PNG": (".png", ("RGB", "L", "LA", "RGBA", "P", "I;16", "1")),
    "JPEG": (".jpg", ("RGB", "L", "CMYK")),
    "BMP": (".bmp", ("RGB", "L", "P", "1")),
    "GIF": (".gif", ("P", "L")),
    "TIFF": (".tif", ("RGB", "L", "RGBA", "CMYK", "P", "I;16", "F", "1")),
    "WEBP": (".webp", ("RGB", "RGBA")),
    "PPM": (".ppm", ("RGB", "L")),
    "JPEG2000": (".jp2", ("RGB", "L", "RGBA")),
    "AVIF": (".avif", ("RGB", "RGBA")),
    "PCX": (".pcx", ("RGB", "L", "P")),
    "SGI": (".sgi", ("RGB", "L", "RGBA")),
    "TGA": (".tga", ("RGB", "L", "RGBA", "P")),
    "MPO": (".mpo", ("RGB",)),
    "DIB": (".dib", ("RGB", "L")),
    "QOI": (".qoi", ("RGB", "RGBA")),
}
"""Pillow's name of a format -> its ending and the modes that are written."""

BOMB_SIDES = (9_000, 20_000, 60_000)
"""Sides of the bombs in pixels: one that may be read, and two that must be refused."""

BOMB_EVERY, TEXT_BOMB_EVERY = 97, 101


def seeds() -> list[tuple[str, bytes]]:
    """Return the endings and contents of whole pictures of all formats and modes, some of several frames."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 24, 3), np.uint8)
    colour = Image.fromarray(noise).resize((48, 48), Image.Resampling.BICUBIC)
    found = []
    for kind, (ending, modes) in FORMATS.items():
        for mode in modes:
            picture = colour.convert("L").convert("I").point(lambda v: v * 200) if mode == "I;16" else colour
            picture = picture.convert(mode)
            found.append((ending, _saved(picture, kind)))
            if kind == "TIFF":
                for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
                    found.append((ending, _saved(picture, kind, compression=compression)))
    frames = [colour.rotate(angle) for angle in (90, 180)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        found.append((FORMATS[kind][0], _saved(colour, kind, save_all=True, append_images=frames)))
    found.append((".jpg", _saved(colour, "JPEG", progressive=True)))
    return found


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class Pictures:
    """Damages a picture, and reads, prepares and predicts it."""

    def __init__(self) -> None:
        self.seeds = seeds()
        self.recognizer = Recognizer(tiny.sure_model(), "cpu")
        self.ways = (*mutations.ANY, mutations.swap_head([content for _, content in self.seeds]))
        self.recognizer.predict([np.zeros((40, 40, 3), np.uint8)], faces="whole-image")  # loads libraries

    def content(self, number: int, rng: Rng) -> tuple[str, bytes]:
        """Return the ending and the content of the picture of a trial."""
        ending, whole = self.seeds[number % len(self.seeds)]
        if number % BOMB_EVERY == BOMB_EVERY - 1:
            side = BOMB_SIDES[int(rng.integers(len(BOMB_SIDES)))]
            return _bomb(side, rng)
        if number % TEXT_BOMB_EVERY == TEXT_BOMB_EVERY - 1:
            return ".png", mutations.png_text_bomb(self.seeds[0][1], rng)
        if rng.random() < 0.1:
            kind = ("JPEG", "PNG", "WEBP", "TIFF")[int(rng.integers(4))]
            with Image.open(io.BytesIO(whole)) as picture:
                content = mutations.with_garbage(picture.convert("RGB"), kind, rng)
            return FORMATS[kind][0], content
        for _ in range(int(rng.choice([1, 1, 2]))):
            whole = self.ways[int(rng.integers(len(self.ways)))](whole, rng)
        return ending, mutations.mend_png(whole) if rng.random() < 0.5 else whole

    def __call__(self, number: int, rng: Rng, folder: Path) -> str:
        ending, content = self.content(number, rng)
        path = folder / f"picture{ending}"
        path.write_bytes(content)
        try:
            pixels, _ = read_reduced(path)
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert min(pixels.shape) > 0
            refused = ""
        except UserError as error:
            refused = str(error)
        crop = crop_file(path, self.recognizer.contract)
        assert (crop.crop is None) == bool(refused), (crop.reason, refused)
        results = list(self.recognizer.stream([path], faces="whole-image", workers=1, check=False))
        assert [result.unread for result in results] == [bool(refused)], (results, refused)
        if refused:
            raise UserError(refused)
        assert np.isfinite(results[0].faces[0].probabilities).all()
        return path.suffix


def _bomb(side: int, rng: Rng) -> tuple[str, bytes]:
    """A small file of a very large picture, as PNG, TIFF or WebP."""
    way = int(rng.integers(5))
    if way < 3:
        return ".png", mutations.png_bomb(min(side, 20_000), rng, (0, 2, 6)[way])
    if way == 3:
        picture = Image.new("L", (min(side, 9_000), min(side, 9_000)))
        return ".tif", _saved(picture, "TIFF", compression="tiff_adobe_deflate")
    return ".webp", _saved(Image.new("RGB", (16_383, 100 if side < 10_000 else 5_400)), "WEBP", quality=1, method=0)


def make() -> Attempt:
    """Make the attempt within a process."""
    return Pictures()
