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

BOMB_PX = 9_000
"""Side of the bombs: one that may just be read."""

SECONDS = 6.0
"""Of the processor for a picture, which is read three times: to look at it, to prepare it and to predict it."""

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
        self.bombs = bombs()
        self.ways = (*mutations.ANY, mutations.swap_head([content for _, content in self.seeds]))
        self.recognizer.predict([np.zeros((40, 40, 3), np.uint8)], faces="whole-image")  # loads libraries

    def content(self, number: int, rng: Rng) -> tuple[str, bytes]:
        """Return the ending and the content of the picture of a trial."""
        ending, whole = self.seeds[number % len(self.seeds)]
        if number % BOMB_EVERY == BOMB_EVERY - 1:
            ending, bomb = self.bombs[int(rng.integers(len(self.bombs)))]
            return ending, mutations.larger_png(bomb, rng) if ending == ".png" and rng.random() < 0.5 else bomb
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
        unread = [result.unread for result in results]
        assert unread, "a file without a row"
        assert all(result.note for result in results if result.unread)
        if not results[0].moving:  # an animated picture has the frames before the damage, and a row that names it
            assert unread == [bool(refused)], (results[0].note, refused)
        if refused:
            raise UserError(refused)
        assert all(np.isfinite(face.probabilities).all() for result in results for face in result.faces)
        return path.suffix


def bombs() -> list[tuple[str, bytes]]:
    """Small files of pictures of 81 million pixels: read, but with little memory."""
    found = [(".png", mutations.png_bomb(BOMB_PX, mode)) for mode in (0, 2, 6)]
    found.append((".tif", _saved(Image.new("L", (BOMB_PX, BOMB_PX)), "TIFF", compression="tiff_adobe_deflate")))
    return [*found, (".webp", _saved(Image.new("RGB", (16_383, 2_000)), "WEBP", quality=1, method=0))]


def make() -> Attempt:
    """Make the attempt within a process."""
    return Pictures()
