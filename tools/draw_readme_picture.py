"""Make the README's pictures, as `fn2en predict` draws them.

    python tools/draw_readme_picture.py runs/quickstart

RUN has a model of the bundled sample. Writes docs/images/astronaut.jpg, a part of scikit-image's photograph of Eileen
Collins (NASA, public domain), and docs/images/party.jpg, rendered faces of the bundled sample hung on a wall; the first
is read by the package's model, the second by that of RUN. The README's commands read both in a test. NAME-drawn.jpg are
the drawings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from facenet2expnet import Recognizer
from facenet2expnet.data import bundled
from facenet2expnet.predict.draw import DrawingWriter

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH, HEIGHT = 1000, 420
PORTRAITS = (("S025", "anger", 60, 90, 210), ("S068", "happiness", 330, 50, 150), ("S076", "surprise", 330, 235, 130),
             ("S012", "happiness", 540, 120, 190), ("S031", "surprise", 790, 70, 150))  # fmt: skip
"""Subject, expression, left, top and side of each portrait."""


def main(run: str) -> None:
    """Write both pictures, and print the table."""
    rows = np.linspace(0, 1, HEIGHT)[:, None, None]
    wall = (np.array([150, 168, 172]) * (1 - rows) + np.array([120, 136, 142]) * rows).repeat(WIDTH, axis=1)
    wall += np.random.default_rng(0).normal(0, 2.5, (HEIGHT, WIDTH, 1))
    wall = wall.clip(0, 255).astype(np.uint8)
    table = bundled.read_sample()
    for subject, label, x, y, side in PORTRAITS:
        own = table[(table["subject"] == subject) & (table["label"] == label)]
        image = own.sort_values("intensity")["image"].iloc[-1]
        face = np.asarray(Image.open(bundled.sample_folder() / image).convert("RGB"))
        cv2.rectangle(wall, (x - 4, y - 2), (x + side + 16, y + side + 18), (96, 110, 116), -1)  # its shadow
        cv2.rectangle(wall, (x - 12, y - 12), (x + side + 11, y + side + 11), (58, 44, 36), -1)
        cv2.rectangle(wall, (x - 6, y - 6), (x + side + 5, y + side + 5), (238, 234, 224), -1)
        wall[y : y + side, x : x + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(data.astronaut()[:300]).save(IMAGES / "astronaut.jpg", quality=90)
    Image.fromarray(wall).save(IMAGES / "party.jpg", quality=88)
    for name, model in (("astronaut", None), ("party", run)):
        recognizer = Recognizer.load(model)
        print(recognizer.predict(IMAGES / f"{name}.jpg").table().round(2).to_string())
        with DrawingWriter(IMAGES / f"{name}-drawn.jpg") as drawings:
            for result in recognizer.stream(IMAGES / f"{name}.jpg"):
                drawings.write(result)


if __name__ == "__main__":
    main(sys.argv[1])
