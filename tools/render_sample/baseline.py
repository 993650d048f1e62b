"""Classical baseline on the sample: python tools/render_sample/baseline.py [FOLDER] [--features hog|lbp]

Features of the grey picture and a linear SVM; ten folds, each with every tenth subject, so that no person
stands on both sides. Prints the mean of the folds' accuracies and the recall of each class.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog, local_binary_pattern
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

SAMPLE = Path(__file__).resolve().parents[2] / "src/facenet2expnet/data/sample"
FOLDS = 10
SIDE = 96


def hog_features(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of oriented gradients, cells of 12 pixels, blocks of 2 x 2 cells. grey: (SIDE, SIDE)."""
    return hog(grey, orientations=8, pixels_per_cell=(12, 12), cells_per_block=(2, 2)).astype(np.float32)


def lbp_features(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of 59 uniform local binary patterns on an 8 x 8 grid. grey: (SIDE, SIDE)."""
    codes = local_binary_pattern(grey, 8, 1, method="nri_uniform").astype(int)
    cell = SIDE // 8
    grid = codes.reshape(8, cell, 8, cell).transpose(0, 2, 1, 3).reshape(64, -1)
    counts = np.stack([np.bincount(block, minlength=59) for block in grid])
    return np.sqrt(counts / cell**2).ravel().astype(np.float32)


FEATURES = {"hog": (hog_features, 0.001), "lbp": (lbp_features, 0.001)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--features", choices=sorted(FEATURES), default="hog")
    options = parser.parse_args()
    # The classes' order is settled long before the last digit of the weights.
    warnings.simplefilter("ignore", ConvergenceWarning)
    table = pd.read_csv(options.folder / "manifest.csv")
    describe, cost = FEATURES[options.features]
    pictures = [
        np.asarray(Image.open(options.folder / image).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for image in table["image"]
    ]
    features = np.stack([describe(picture) for picture in pictures])
    labels = table["label"].to_numpy()
    subjects = sorted(table["subject"].unique())
    fold_of = {subject: number % FOLDS for number, subject in enumerate(subjects)}
    folds = table["subject"].map(fold_of).to_numpy()
    predicted = np.empty(len(labels), dtype=object)
    for fold in range(FOLDS):
        test = folds == fold
        machine = make_pipeline(StandardScaler(), LinearSVC(C=cost, random_state=0))
        machine.fit(features[~test], labels[~test])
        predicted[test] = machine.predict(features[test])
    right = predicted == labels
    by_fold = [float(right[folds == fold].mean()) for fold in range(FOLDS)]
    print(
        f"{options.features} + linear SVM, {len(subjects)} subjects, {FOLDS} folds: "
        f"{100 * np.mean(by_fold):.1f} % (spread over folds {100 * np.std(by_fold):.1f})"
    )
    recall = pd.Series(right).groupby(labels).mean().mul(100).round(1)
    print(f"mean of the classes' recalls {recall.mean():.1f} %")
    print(pd.crosstab(labels, predicted, rownames=["truth"], colnames=["predicted"]).to_string())


if __name__ == "__main__":
    main()
