"""Find faces in scenes that are made of cut-out photographs: share found, false finds, and answers.

    python benchmarks/photo_scenes.py PRESS --model runs/press

PRESS is a folder with labelled.csv (image, label, subject) and the pictures it names, cut out around the faces. 500 of
them are pasted, in sizes from 24 to 300 pixels and one to six a scene, onto scikit-image's photographs without people
(1280 x 720). A find counts if its box overlaps the face by a third or more, and if there is no better one. With a
model, its answers in the scenes are compared with those for the cut-out pictures themselves. No picture is written.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from skimage import data

from facenet2expnet import Recognizer
from facenet2expnet.crop import CropContract, Framing
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.faces.detect import find_in_photo
from facenet2expnet.faces.framing import estimate_framing

SCENE_WH = (1280, 720)
SIZES_PX = (24, 32, 48, 96, 300)
FOUND_IOU = 1 / 3


def main() -> None:
    """Print one Markdown table of the detectors, and one line on the model's answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("press", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--detectors", nargs="+", default=["mtcnn", "viola-jones", "dlib68"])
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    table = pd.read_csv(chosen.press / "labelled.csv").sample(chosen.pictures, random_state=0)
    pictures = [read_picture(chosen.press / image) for image in table["image"]]
    stored = np.stack([cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in pictures])
    framing = estimate_framing(stored, np.arange(len(stored)))
    assert framing is not None
    scenes = make_scenes(pictures, framing)
    sizes = [f"{low} to {high} px" for low, high in pairwise(SIZES_PX)]
    print(f"{len(scenes)} scenes, {len(pictures)} faces; {framing}\n")
    print(f"| detector | found, % | {' | '.join(sizes)} | false finds | scenes a second |")
    print("|---|" + "---:|" * (len(sizes) + 3))
    for detector in chosen.detectors:
        print(measure(scenes, detector))
    if chosen.model:
        print(answers(Recognizer.load(chosen.model), pictures, scenes, table["label"].to_numpy()))


def make_scenes(pictures: list[np.ndarray], framing: Framing) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scenes (H, W, 3) uint8, with the expected face boxes (N, 4) and the numbers (N,) of their pictures."""
    rng = np.random.default_rng(0)
    walls = [cv2.resize(w if w.ndim == 3 else cv2.cvtColor(w, cv2.COLOR_GRAY2RGB), SCENE_WH) for w in backgrounds()]
    scenes, first = [], 0
    while first < len(pictures):
        count = min(int(rng.integers(1, 7)), len(pictures) - first)
        scene, squares = walls[len(scenes) % len(walls)].copy(), np.zeros((0, 4))
        for number in range(first, first + count):
            side = round(float(np.exp(rng.uniform(np.log(SIZES_PX[0]), np.log(SIZES_PX[-1])))))
            for _ in range(1000):
                x, y = (int(rng.integers(0, room - side)) for room in SCENE_WH)
                square = np.array([x, y, x + side, y + side], float)
                if not len(squares) or not overlaps(square[None], squares).any():
                    break
            method = cv2.INTER_AREA if side < pictures[number].shape[0] else cv2.INTER_CUBIC
            scene[y : y + side, x : x + side] = cv2.resize(pictures[number], (side, side), interpolation=method)
            squares = np.concatenate([squares, square[None]])
        sides = squares[:, 2:3] - squares[:, :1]
        centres, half = squares[:, :2] + sides * framing.centre_xy, sides * framing.size / 2
        boxes = np.concatenate([centres - half * (0.8, 1), centres + half * (0.8, 1)], axis=1)  # faces are higher
        scenes.append((scene, boxes, np.arange(first, first + count)))
        first += count
    return scenes


def backgrounds() -> list[np.ndarray]:
    """Photographs without people."""
    return [data.coffee(), data.chelsea(), data.rocket(), data.brick(), data.grass(), data.gravel()]


def measure(scenes: list[tuple[np.ndarray, np.ndarray, np.ndarray]], detector: str) -> str:
    """One row of the table."""
    found: list[tuple[float, bool]] = []
    false, began = 0, time.perf_counter()
    for scene, boxes, _ in scenes:
        faces = find_in_photo(scene, CropContract(detector=detector))
        matched = match(boxes, np.array([face.box_xyxy_px for face in faces]).reshape(-1, 4))
        false += len(faces) - len(matched)
        found += [(box[3] - box[1], number in matched) for number, box in enumerate(boxes)]
    rate = len(scenes) / (time.perf_counter() - began)
    sizes, hits = (np.array(column) for column in zip(*found, strict=True))
    shares = [hits[(sizes >= low) & (sizes < high * 1.2)].mean() for low, high in pairwise(SIZES_PX)]
    return f"| `{detector}` | {hits.mean():.1%} | {' | '.join(f'{s:.1%}' for s in shares)} | {false} | {rate:.1f} |"


def match(expected: np.ndarray, found: np.ndarray) -> dict[int, int]:
    """Number of the expected box -> number of the found one."""
    shared = overlaps(expected, found)
    pairs = zip(*linear_sum_assignment(-shared), strict=True)
    return {int(row): int(column) for row, column in pairs if shared[row, column] >= FOUND_IOU}


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4) -> (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def answers(
    recognizer: Recognizer,
    pictures: list[np.ndarray],
    scenes: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    labels: np.ndarray,
) -> str:
    """Compare the answers in the scenes with those for the cut-out pictures, for faces of 48 pixels and more."""
    whole = recognizer.predict(pictures, faces="whole-image").probabilities
    same, near, right, right_whole = [], [], [], []
    names = np.array(recognizer.classes)
    stream = recognizer.stream([scene for scene, _, _ in scenes])
    for (_, boxes, numbers), result in zip(scenes, stream, strict=True):
        found = np.array([face.box_xyxy_px for face in result.faces]).reshape(-1, 4)
        for row, column in match(boxes, found).items():
            if boxes[row, 3] - boxes[row, 1] < 48:
                continue
            before, after = whole[numbers[row]], result.faces[column].probabilities
            same.append(before.argmax() == after.argmax())
            near.append(np.abs(before - after).max())
            right.append(names[after.argmax()] == labels[numbers[row]])
            right_whole.append(names[before.argmax()] == labels[numbers[row]])
    return (
        f"\n{len(same)} faces of 48 px or more: the same class as for the cut-out picture in {np.mean(same):.1%}; "
        f"largest difference of a probability {np.median(near):.3f} (median), {np.quantile(near, 0.9):.3f} (90 %); "
        f"right {np.mean(right):.1%} in the scene, {np.mean(right_whole):.1%} cut out"
    )


if __name__ == "__main__":
    main()
