"""Draw the photographs of docs/images/people as `standard` reads them, and print the table of docs/predict.md.

    python tools/draw_gallery.py

Writes docs/images/gallery.webp. docs/images/people/reader.csv has what one reader sees in each face, from left to
right; it was written before a model read them. `tests/test_docs.py` checks that the table is what the models answer.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facenet2expnet import Recognizer
from facenet2expnet.predict.draw import draw_faces
from facenet2expnet.predict.results import FrameResult

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PEOPLE = IMAGES / "people"
ROWS = (4, 3, 3)
"""Pictures in each row of the gallery."""

WIDTH_PX, GAP_PX, CAPTION_PX = 1080, 8, 24


def main() -> None:
    """Write the gallery, and print the table and the agreement."""
    pictures = sorted(PEOPLE.glob("*.jpg"))
    standard, small = (list(Recognizer.load(name, "cpu").stream(pictures)) for name in (None, "small"))
    gallery(standard).save(IMAGES / "gallery.webp", quality=72, method=6)
    print("| picture | one reader | `standard` | `small` |\n|---|---|---|---|")
    agreed = np.zeros(2, int)
    for name, side, expression, *said in lines(standard, small):
        where = "" if side == "only" else f", {side}"
        print(f"| [`{name}`](images/people/{name}){where} | {expression} | {said[0]} | {said[1]} |")
        agreed += [answer.startswith(expression) for answer in said]
    print(f"agreed with the reader: {agreed}")


def lines(*models: list[FrameResult]) -> Iterator[list[str]]:
    """For each face its picture, side, the reader's expression, and the answer of each model."""
    with (PEOPLE / "reader.csv").open(newline="", encoding="utf-8") as file:
        rows = [list(faces) for _, faces in groupby(csv.reader(list(file)[1:]), key=lambda row: row[0])]
    for faces, *results in zip(rows, *models, strict=True):
        said = [answers(result) or ["no face found"] * len(faces) for result in results]
        for face, *answer in zip(faces, *said, strict=True):
            yield [*face, *answer]


def answers(result: FrameResult) -> list[str]:
    """The class and probability of each face, from left to right."""
    faces = sorted(zip(result.faces, result.labels, strict=True), key=lambda pair: pair[0].box_xyxy_px[0])
    return [f"{label} {face.probabilities.max():.0%}".replace("%", " %") for face, label in faces]


def gallery(results: list[FrameResult]) -> Image.Image:
    """Return the drawn pictures in rows of one width, each with its name below."""
    rows, left = [], iter(results)
    for count in ROWS:
        row = [next(left) for _ in range(count)]
        sizes = [Image.open(result.source).size for result in row]
        height = round((WIDTH_PX - (count - 1) * GAP_PX) / sum(width / height for width, height in sizes))
        rows.append([drawn(result, height) for result in row])
    sheet = Image.new("RGB", (WIDTH_PX, sum(tiles[0].height for tiles in rows)), "white")
    y = 0
    for tiles in rows:
        x = 0
        for tile in tiles:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP_PX
        y += tiles[0].height
    return sheet


def drawn(result: FrameResult, height: int) -> Image.Image:
    """Return a picture with its boxes, drawn at the gallery's size so that the letters can be read, and its name."""
    picture = Image.open(result.source).convert("RGB")
    scale = height / picture.height
    picture = picture.resize((round(picture.width * scale), height), Image.Resampling.LANCZOS)
    faces = [replace(face, box_xyxy_px=face.box_xyxy_px * scale) for face in result.faces]
    tile = Image.new("RGB", (picture.width, height + CAPTION_PX), "white")
    tile.paste(Image.fromarray(draw_faces(np.asarray(picture), faces, result.labels)), (0, 0))
    text = Path(result.source).stem + ("" if faces else ": no face found")
    ImageDraw.Draw(tile).text((2, height + 2), text, fill="black", font=ImageFont.load_default(15))
    return tile


if __name__ == "__main__":
    main()
