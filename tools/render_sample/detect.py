"""Share of pictures in which Viola-Jones finds the face: python tools/render_sample/detect.py FOLDER

A face counts as found when a box of OpenCV's frontal face cascade holds the picture's middle and is at
least 40 % of its side. Needs OpenCV below 5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    table = pd.read_csv(options.folder / "manifest.csv")
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    found = []
    for image in table["image"]:
        grey = cv2.imread(str(options.folder / image), cv2.IMREAD_GRAYSCALE)
        side = min(grey.shape)
        boxes = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=3, minSize=(side * 2 // 5, side * 2 // 5))
        found.append(any(x < side / 2 < x + w and y < side / 2 < y + h for x, y, w, h in boxes))
    table["found"] = found
    print(f"found in {sum(found)} of {len(found)} pictures ({100 * sum(found) / len(found):.1f} %)")
    print(table.groupby("label")["found"].mean().mul(100).round(1).to_string())


if __name__ == "__main__":
    main()
