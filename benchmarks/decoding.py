"""Decode photographs of 12 megapixels at a half or a quarter of their size: time saved, and answers changed.

    OMP_NUM_THREADS=1 python benchmarks/decoding.py PRESS --model src/facenet2expnet/models/standard

PRESS is a folder with labelled.csv (image, label, subject) and the pictures it names, cut out around the faces. Each of
60 is pasted, enlarged, into one of scikit-image's photographs without people (4032 x 3024, with grain, JPEG of quality
92). The reduced size is libjpeg's own (`Image.draft`), of the decoded picture the same smallest face is looked for, and
answers are compared with those at full size. Times are those of the processor, medians of all photographs. No picture
is written.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image

import photo_scenes
from facenet2expnet import Recognizer
from facenet2expnet.data.pictures import read_picture, to_rgb
from facenet2expnet.faces.detect import MIN_FACE_PX, SMALLEST_SHARE, find_in_photo
from facenet2expnet.faces.prepare import cut_face

PHOTO_WH, GRAIN = (4032, 3024), 3.0
SEARCHES: dict[float, tuple[int, ...]] = {PHOTO_WH[0] / SMALLEST_SHARE: (1, 2), 300.0: (1, 2, 4)}
"""Smallest face in pixels of the photograph, the first one the default -> how many times smaller it is decoded."""


def photographs(press: Path, count: int, smallest_px: float, largest_px: int) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield JPEG files with one face each, and the square (left, top, right, bottom) that it was pasted into."""
    rng = np.random.default_rng(0)
    table = pd.read_csv(press / "labelled.csv").sample(count, random_state=0)
    for number, image in enumerate(table["image"]):
        wall = photo_scenes.backgrounds()[number % 6]
        scene = cv2.resize(wall if wall.ndim == 3 else cv2.cvtColor(wall, cv2.COLOR_GRAY2RGB), PHOTO_WH)
        side = round(float(np.exp(rng.uniform(np.log(1.5 * smallest_px), np.log(largest_px)))))
        x, y = (int(rng.integers(0, room - side)) for room in PHOTO_WH)
        face = cv2.resize(read_picture(press / image), (side, side), interpolation=cv2.INTER_CUBIC)
        scene[y : y + side, x : x + side] = face
        grain = rng.normal(0, GRAIN, (*scene.shape[:2], 1)).astype(np.float32)
        content = io.BytesIO()
        Image.fromarray((scene + grain).clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=92)
        yield content.getvalue(), np.array([x, y, x + side, y + side], float)


def look(recognizer: Recognizer, photo: bytes, square: np.ndarray, smallest_px: float, reduced: int) -> dict[str, Any]:
    """Decode a photograph, find its faces and classify them; return milliseconds, and the face's box and answer."""
    contract, marks = recognizer.contract.for_photos(), [time.process_time()]
    with Image.open(io.BytesIO(photo)) as image:
        if reduced > 1:
            image.draft(None, (image.width // reduced, image.height // reduced))
        pixels = to_rgb(image)
    marks.append(time.process_time())
    faces = find_in_photo(pixels, contract, min_face_px=smallest_px / reduced)
    marks.append(time.process_time())
    answers: list[np.ndarray] = []
    if faces:
        answers = list(recognizer.probabilities(np.stack([cut_face(pixels, face, contract) for face in faces])))
    marks.append(time.process_time())
    decode, search, classify = np.diff(marks) * 1000
    boxes = np.array([face.box_xyxy_px * reduced for face in faces]).reshape(-1, 4)
    found = photo_scenes.match(square[None], boxes).get(0)
    answer = None if found is None else answers[found]
    return {"decode": decode, "search": search, "classify": classify, "mb": len(photo) / 1e6, "answer": answer}


def summary(rows: list[list[dict[str, Any]]], smallest_px: float) -> Iterator[str]:
    """Yield a row of the table for each size; `rows` are those of a photograph each, the first at full size."""
    full = [row[0]["answer"] for row in rows]
    for number, reduced in enumerate(SEARCHES[smallest_px]):
        here = [row[number] for row in rows]
        both = [(one, row["answer"]) for one, row in zip(full, here, strict=True)]
        pairs = [(one, other) for one, other in both if one is not None and other is not None]
        same = np.mean([one.argmax() == other.argmax() for one, other in pairs])
        change = [np.abs(one - other).max() for one, other in pairs]
        times = [float(np.median([row[name] for row in here])) for name in ("decode", "search", "classify")]
        found = np.mean([row["answer"] is not None for row in here])
        yield (
            f"| {smallest_px:.0f} | {'full' if reduced == 1 else f'1/{reduced}'} | {smallest_px / reduced:.0f} "
            f"| {' | '.join(f'{value:.0f}' for value in (*times, sum(times)))} | {found:.1%} | {same:.1%} "
            f"| {np.median(change):.3f} | {np.quantile(change, 0.9):.3f} |"
        )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("press", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--largest", type=int, default=1500, help="side of the largest pasted picture, in pixels")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    recognizer = Recognizer.load(given.model, "cpu")
    print(f"stored faces of {recognizer.contract.stored_px} pixels; the detector sees {MIN_FACE_PX} pixels and more\n")
    print(
        "| smallest face, px | decoded at | it then has, px | decode, ms | search, ms | classify, ms | together, ms "
        "| found | same class | change of a probability: median | 90 % |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for smallest_px, sizes in SEARCHES.items():
        photos = photographs(given.press, given.pictures, smallest_px, given.largest)
        rows = [[look(recognizer, *photo, smallest_px, reduced) for reduced in sizes] for photo in photos]
        for line in summary(rows, smallest_px):
            print(line, flush=True)
        print(f"(files of {np.median([row[0]['mb'] for row in rows]):.1f} MB)")


if __name__ == "__main__":
    main()
