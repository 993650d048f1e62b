"""The benchmarks' folder on the path, and data sets of their layout with a few pictures that mean nothing."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facenet2expnet.labels import FERPLUS_VOTES

for name in ("benchmarks", "tools/train_models"):
    sys.path.insert(0, str(Path(__file__).parents[2] / name))

CLASSES = ("anger", "happiness", "surprise")


def grey_faces(classes: np.ndarray, side: int, seed: int = 0) -> np.ndarray:
    """Noise whose class shows in its brightness, (N, side, side) uint8."""
    noise = np.random.default_rng(seed).integers(0, 80, (len(classes), side, side))
    return (noise + 80 * classes[:, None, None]).clip(0, 255).astype(np.uint8)


def write_press(folder: Path) -> None:
    """Thirty labelled pictures of fifteen people, and twelve without a label, the first of a person with labels."""
    folder.mkdir(parents=True)
    classes = np.arange(42) % 3
    names = [f"p{number:05}.jpg" for number in range(42)]
    with zipfile.ZipFile(folder / "faces.zip", "w") as packed:
        for name, pixels in zip(names, grey_faces(classes, 40), strict=True):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "jpeg", quality=95)
            packed.writestr(name, content.getvalue())
    labels = [CLASSES[number] for number in classes[:30]]
    subjects = [f"s{number // 2:04}" for number in range(30)]
    table = pd.DataFrame({"image": names[:30], "label": labels, "subject": subjects})
    table.to_csv(folder / "labelled.csv", index=False)
    others = pd.DataFrame({"image": names[30:], "subject": ["s0000", *(f"u{number}" for number in range(11))]})
    others.to_csv(folder / "unlabelled.csv", index=False)


def write_fer2013(folder: Path) -> None:
    """Forty-eight pictures of Training and eighteen of PublicTest, of which the first is in both."""
    folder.mkdir(parents=True)
    numbers = np.array([0, 3, 5])  # anger, happiness, surprise in the competition's codes
    names = [*FERPLUS_VOTES, "unknown", "NF"]
    classes = np.arange(66) % 3
    pixels = grey_faces(classes, 48, seed=1)
    pixels[48] = pixels[0]
    usage = ["Training"] * 48 + ["PublicTest"] * 18
    text = [" ".join(map(str, picture.ravel())) for picture in pixels]
    pd.DataFrame({"emotion": numbers[classes], "pixels": text, "Usage": usage}).to_csv(
        folder / "fer2013.csv", index=False
    )
    votes = pd.DataFrame(0, index=range(66), columns=names)
    for row, number in enumerate(classes):
        votes.loc[row, CLASSES[number]] = 9
    votes.insert(0, "Image name", [f"fer{row:07}.png" for row in range(66)])
    votes.insert(0, "Usage", usage)
    votes.to_csv(folder / "fer2013new.csv", index=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with press and fer2013."""
    folder = tmp_path_factory.mktemp("benchmark-data")
    write_press(folder / "press")
    write_fer2013(folder / "fer2013")
    return folder
