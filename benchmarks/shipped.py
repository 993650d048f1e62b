"""Who the shipped models work for: classes, confusions, size, blur, cutting, and abstention.

    python benchmarks/shipped.py FER2013 PRESS --models small standard --out runs/shipped

FER2013 is the folder of `fn2en data how-to fer2013` with the votes of FER+, PRESS that of press.py. The pictures of
PublicTest that have a FER+ majority for one of the seven classes are tested as they are. The press pictures are of
other people by other photographers, with five classes and labels of one person: their faces are found with MTCNN and
cut as in training, then turned upright, smaller, blurred, or cut otherwise. All these pictures are grey; coloured ones
are made of the press pictures. Prints Markdown; predictions.parquet in --out has every probability. What a head turned
aside costs is not tested: no set here says where a face looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

import comparison
from facenet2expnet import Recognizer
from facenet2expnet.crop import CropContract
from facenet2expnet.data import sources
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.experiment.metrics import scores_of_method
from facenet2expnet.faces.detect import Face, find_faces
from facenet2expnet.faces.prepare import cut_face, whole_picture
from facenet2expnet.labels import FER2013_CODES
from press import read_press

SEVEN = tuple(FER2013_CODES.values())
SIZES_PX = (16, 24, 32, 48, 64, 96)
BLURS = (0.01, 0.02, 0.04, 0.06)
"""Standard deviations of a Gaussian blur, as shares of the face box's longer side."""
CUTS = {"a tenth wider": (1.1, 0.0), "a quarter wider": (1.25, 0.0), "a tenth closer": (0.9, 0.0),
        "a quarter closer": (0.75, 0.0), "a tenth of the face to the side": (1.0, 0.1)}  # fmt: skip
LIGHTS = {"warm light": (1.2, 0.95, 0.75), "cool light": (0.8, 1.0, 1.2)}
"""Factors on R, G and B."""
GREYS = (0, 64, 128, 200, 255)
SKIN = ((20, 8, 5), (90, 50, 38), (175, 120, 98), (232, 190, 168), (255, 240, 230))
"""The colours that these greys become, from shadow to light, as on skin; between them they change linearly."""
THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Table = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture with one labelled face; `face` is None if MTCNN does not find it."""

    image: str
    label: str
    pixels: np.ndarray
    face: Face | None


def public_test(fer2013: Path, work: Path) -> Manifest:
    """Return PublicTest's pictures with a FER+ majority for one of the seven classes."""
    manifest = sources.read_into("fer2013", fer2013, work / "pictures", labels="ferplus")
    table = manifest.table
    kept = (table["split"] == "valid") & table["label"].isin(SEVEN)
    return Manifest(table.loc[kept, ["image", "label"]].reset_index(drop=True), manifest.root, name="PublicTest")


def press_photos(press: Path, work: Path) -> list[Photo]:
    """Return the labelled press pictures, each with its largest face as MTCNN finds it."""
    manifest, contract = read_press(press, work / "press"), CropContract(detector="mtcnn")
    photos = []
    for image, label in zip(manifest.table["image"], manifest.table["label"], strict=True):
        pixels = read_picture(manifest.root / image)
        faces = find_faces(pixels, contract)
        photos.append(Photo(image, label, pixels, faces[0] if faces else None))
    return photos


def predict(recognizer: Recognizer, crops: list[np.ndarray], names: Any, labels: Any, **what: Any) -> pd.DataFrame:
    """Classify stored faces: one row each, as `scores_of_method` takes them."""
    found = recognizer.probabilities(np.stack(crops))
    classes = np.array(recognizer.classes, object)
    columns = {"image": names, "fold": "all", "seed": 0, "truth": labels, "predicted": classes[found.argmax(1)]}
    return pd.DataFrame(columns | what | {f"p_{name}": found[:, k] for k, name in enumerate(classes)})


def cut(photo: Photo, contract: CropContract, wider: float = 1.0, aside: float = 0.0) -> np.ndarray:
    """Cut the face out as in training, or `wider` times as wide and so much of its width to the side."""
    if photo.face is None:
        return whole_picture(photo.pixels, contract)
    left, top, right, bottom = photo.face.box_xyxy_px
    x, y, w, h = (left + right) / 2, (top + bottom) / 2, wider * (right - left) / 2, wider * (bottom - top) / 2
    x += aside * (right - left)
    return cut_face(photo.pixels, Face(np.array([x - w, y - h, x + w, y + h]), photo.face.score), contract)


def upright(photo: Photo, contract: CropContract) -> np.ndarray:
    """Turn the picture about the middle of the face until the eyes are level, and cut the face out."""
    assert photo.face is not None
    box, points = photo.face.box_xyxy_px, photo.face.points_px
    assert points is not None
    right, down = points[1] - points[0]  # from the left eye to the right one
    centre = float(box[[0, 2]].mean()), float(box[[1, 3]].mean())
    turn = cv2.getRotationMatrix2D(centre, float(np.degrees(np.arctan2(down, right))), 1.0)
    size = photo.pixels.shape[1::-1]
    turned = cv2.warpAffine(photo.pixels, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cut_face(turned, photo.face, contract)


def smaller(photo: Photo, contract: CropContract, side_px: float) -> np.ndarray:
    """Cut the face out of a picture so small that the longer side of its box is `side_px`."""
    assert photo.face is not None
    box = photo.face.box_xyxy_px
    factor = side_px / max(box[2] - box[0], box[3] - box[1])
    size = tuple(max(2, round(side * factor)) for side in photo.pixels.shape[1::-1])
    pixels = cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA)
    return cut_face(pixels, Face(box * factor, photo.face.score), contract)


def blurred(photo: Photo, contract: CropContract, share: float) -> np.ndarray:
    """Blur the picture by this share of the face's longer side, and cut the face out."""
    assert photo.face is not None
    box = photo.face.box_xyxy_px
    sigma = share * float(max(box[2] - box[0], box[3] - box[1]))
    return cut_face(cv2.GaussianBlur(photo.pixels, (0, 0), sigma), photo.face, contract)


def lit(photo: Photo, contract: CropContract, factors: tuple[float, float, float]) -> np.ndarray:
    """Cut the face out in a coloured light."""
    coloured = np.clip(cut(photo, contract) * np.array(factors), 0, 255)
    return coloured.astype(np.uint8)


def skin_coloured(photo: Photo, contract: CropContract) -> np.ndarray:
    """Cut the face out of a grey picture and colour it as skin."""
    grey = cut(photo, contract)[..., 0]
    channels = [np.interp(grey, GREYS, colours) for colours in zip(*SKIN, strict=True)]
    return np.stack(channels, axis=2).astype(np.uint8)


def measure_press(recognizer: Recognizer, photos: list[Photo], *, first: bool = False) -> list[pd.DataFrame]:
    """Classify the press faces in all the ways, or in the first alone; the column `method` says how."""
    contract = recognizer.contract.for_photos("mtcnn")
    found = [photo for photo in photos if photo.face is not None]
    largest = {size: [p for p in found if np.ptp(np.reshape(p.face.box_xyxy_px, (2, 2)), 0).max() >= size]
               for size in SIZES_PX}  # fmt: skip
    ways: list[tuple[str, list[Photo], Callable[[Photo], np.ndarray]]] = [
        ("found and cut as in training", photos, partial(cut, contract=contract)),
        ("the picture as it is", photos, lambda photo: whole_picture(photo.pixels, recognizer.contract)),
        *((f"cut {name}", photos, partial(cut, contract=contract, wider=wider, aside=aside))
          for name, (wider, aside) in CUTS.items()),
        ("turned until the eyes are level", found, partial(upright, contract=contract)),
        *((f"face of {size} px", largest[size], partial(smaller, contract=contract, side_px=size))
          for size in SIZES_PX),
        *((f"blur of {share:.0%}", found, partial(blurred, contract=contract, share=share)) for share in BLURS),
        ("coloured as skin", photos, partial(skin_coloured, contract=contract)),
        *((f"in {name}", photos, partial(lit, contract=contract, factors=factors)) for name, factors in LIGHTS.items()),
    ]  # fmt: skip
    return [
        predict(recognizer, [way(p) for p in chosen], [p.image for p in chosen], [p.label for p in chosen], method=name)
        for name, chosen, way in ways[: 1 if first else None]
        if chosen
    ]


def line(name: str, rows: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the row of a table: pictures, accuracy, macro recall, calibration error, log loss."""
    scores = scores_of_method(rows, classes)["pooled"]
    return {
        "": name, "pictures": len(rows), "accuracy, %": 100 * scores["accuracy"],
        "macro recall, %": 100 * scores["balanced_accuracy"],
        "calibration error, %": 100 * scores["expected_calibration_error"],
        "log loss": scores["negative_log_likelihood"],
    }  # fmt: skip


def within(rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Return the rows with the answer chosen, and the probabilities shared out, among these classes only."""
    columns = [f"p_{name}" for name in classes]
    shares = rows[columns].div(rows[columns].sum(axis=1), axis=0)
    return rows.assign(predicted=np.array(classes, object)[shares.to_numpy().argmax(1)], **shares)


def by_class(rows: pd.DataFrame, classes: tuple[str, ...]) -> Table:
    """Return recall, precision and the most frequent wrong answer of each class."""
    table = []
    for own in scores_of_method(rows, classes)["per_class"]:
        if not own["pictures"]:
            continue
        answers = rows.loc[rows["truth"] == own["class"], "predicted"].value_counts(normalize=True)
        wrong = answers.drop(own["class"], errors="ignore")
        mistake = f"{wrong.index[0]}, {wrong.iloc[0]:.0%}" if len(wrong) else ""
        table.append({"class": own["class"], "pictures": own["pictures"], "recall, %": 100 * own["recall"],
                      "precision, %": 100 * own["precision"], "taken for": mistake})  # fmt: skip
    return table


def abstention(rows: pd.DataFrame, classes: tuple[str, ...]) -> Table:
    """Return the share of answers that are kept, and their accuracy, by the smallest probability that is accepted."""
    best = rows[[f"p_{name}" for name in classes]].max(axis=1)
    correct = rows["truth"] == rows["predicted"]
    return [
        {"--min-probability": threshold, "answered, %": 100 * float((best >= threshold).mean()),
         "accuracy of these, %": 100 * float(correct[best >= threshold].mean())}
        for threshold in (0.0, *THRESHOLDS)
    ]  # fmt: skip


def markdown(rows: Table) -> str:
    """Return a table as Markdown, numbers to one decimal, log losses to two."""

    def text(name: str, value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.2f}" if name in ("log loss", "--min-probability") else f"{value:.1f}"
        return str(value)

    return comparison.markdown(pd.DataFrame([{name: text(name, value) for name, value in row.items()} for row in rows]))


def main() -> None:
    """Read the options, test every model, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fer2013", type=Path, metavar="FER2013")
    parser.add_argument("press", type=Path, metavar="PRESS")
    parser.add_argument("--models", nargs="+", default=["standard", "small"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    faces = public_test(given.fer2013, given.out / "fer2013")
    pictures = [read_picture(faces.root / image) for image in faces.table["image"]]
    photos = press_photos(given.press, given.out)
    missed = sum(photo.face is None for photo in photos)
    print(f"Press pictures: {len(photos)}, no face found in {missed}; these are taken as they are.")
    every = []
    for name in given.models:
        recognizer = Recognizer.load(name, "cpu")
        classes = recognizer.classes
        own = predict(
            recognizer, [whole_picture(p, recognizer.contract) for p in pictures], faces.table["image"],
            faces.table["label"], method="PublicTest",
        )  # fmt: skip
        others = measure_press(recognizer, photos)
        five = sorted({photo.label for photo in photos})
        every += [rows.assign(model=name) for rows in (own, *others)]
        print(f"\n## {name}\n\n{markdown([line('FER2013 PublicTest, FER+ majority', own, classes)])}")
        print(f"\n{markdown(by_class(own, classes))}\n\n{markdown(abstention(own, classes))}")
        table = [line("press, answers among its five classes", within(others[0], five), classes)]
        print(f"\n{markdown(table + [line(rows['method'].iloc[0], rows, classes) for rows in others])}")
        print(f"\n{markdown(by_class(others[0], classes))}")
    pd.concat(every, ignore_index=True).to_parquet(given.out / "predictions.parquet", index=False)


if __name__ == "__main__":
    main()
