"""Classical methods and a linear probe of the untouched face net, on the folds and pictures of a run.

    python benchmarks/classical.py runs/press
    python benchmarks/classical.py runs/press --method hog --method probe-level2 --out runs/press-classical

RUN is a folder of `fn2en compare`: its folds.json, manifest, crop and face net are used, so that every row is trained
and tested on the same pictures as the rows of the run. Copies of test pictures are out of the training parts there.

- hog: histograms of oriented gradients of the grey crop (OpenCV), linear SVM.
- lbp: uniform local binary patterns of the grey crop, linear SVM.
- probe-LAYER: logistic regression on a layer of the pretrained face net, averaged over a 4 x 4 grid.

Features are standardised with the training part's statistics. C is chosen among 1e-5, 1e-4, ..., 1 by accuracy in three
folds of the training part, by subject where subjects are known. With --out, predictions.csv and scores.csv are written.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

import comparison
from facenet2expnet import recipes
from facenet2expnet.crop import centre_crop
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.splits import Split, read_splits
from facenet2expnet.recipe import Recipe
from facenet2expnet.report import tables
from facenet2expnet.training import stages

SIDE_PX, GRID = 64, 8
"""Grey crops are brought to this side; LBP counts on a grid of GRID x GRID cells, as HOG's are."""
PROBE_GRID = 4
COSTS = [10.0**power for power in range(-5, 1)]
INNER_FOLDS = 3
METHODS = ("hog", "lbp", "probe-level1", "probe-level2")


@dataclass(frozen=True, eq=False)
class RunData:
    """The recipe of a run, its pictures, and its splits."""

    recipe: Recipe
    dataset: Dataset
    splits: list[Split]


def read_run_data(run: Path) -> RunData:
    """Read the pictures of a run again, at its size, with the splits that it used."""
    recipe = recipes.read(run / "recipe.toml")
    dataset = load_dataset(read_manifest(run / "manifest.csv"), recipe.crop)
    return RunData(recipe, dataset, read_splits(run / "folds.json", dataset.manifest))


def grey_crops(pixels: np.ndarray, crop_px: int) -> np.ndarray:
    """Return centre crops in grey, (N, SIDE_PX, SIDE_PX) uint8, of stored faces (N, S, S, 3)."""
    crops = centre_crop(torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2), crop_px)
    rgb = crops.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
    grey = [cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in rgb]
    return np.stack([cv2.resize(one, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA) for one in grey])


def hog_features(grey: np.ndarray) -> np.ndarray:
    """Return histograms of nine orientations, (N, 1764): 8-pixel cells in 7 x 7 blocks of 2 x 2 cells.

    Args:
        grey: (N, SIDE_PX, SIDE_PX) uint8.
    Source: Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005.
    """
    cell = SIDE_PX // GRID
    hog = cv2.HOGDescriptor((SIDE_PX, SIDE_PX), (2 * cell, 2 * cell), (cell, cell), (cell, cell), 9)
    return np.stack([hog.compute(picture).ravel() for picture in grey])


def lbp_features(grey: np.ndarray) -> np.ndarray:
    """Return histograms of uniform local binary patterns, (N, GRID * GRID * 59): square roots of their shares.

    A pixel's pattern says which of its eight neighbours are at least as bright. The 58 patterns with at most two
    changes around the circle have a bin each, all others share one.

    Args:
        grey: (N, SIDE_PX, SIDE_PX) uint8.
    Source: Ojala, Pietikäinen and Mäenpää, Multiresolution Gray-Scale and Rotation Invariant Texture Classification
        with Local Binary Patterns, PAMI 2002; on a grid of cells as Shan, Gong and McOwan 2009.
    """
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]  # clockwise
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    codes = np.zeros(grey.shape, np.uint8)
    for bit, (row, column) in enumerate(around):
        codes |= (padded[:, row : row + SIDE_PX, column : column + SIDE_PX] >= grey).astype(np.uint8) << bit
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    uniform = (bits != np.roll(bits, 1, axis=1)).sum(axis=1) <= 2
    bins = np.where(uniform, np.cumsum(uniform) - 1, uniform.sum())
    cell = SIDE_PX // GRID
    cells = bins[codes].reshape(len(grey), GRID, cell, GRID, cell).swapaxes(2, 3).reshape(len(grey), GRID**2, cell**2)
    counts = np.stack([(cells == number).sum(axis=2) for number in range(uniform.sum() + 1)], axis=2)
    return np.sqrt(counts / cell**2).reshape(len(grey), -1).astype(np.float32)


@torch.inference_mode()
def probe_features(pixels: np.ndarray, recipe: Recipe, layer: str) -> np.ndarray:
    """Return a layer of the pretrained face net for centre crops, averaged over a 4 x 4 grid, (N, C * 16)."""
    net, found = stages.load_face_net(recipe).eval(), []
    for start in range(0, len(pixels), 64):
        stored = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 64])).permute(0, 3, 1, 2)
        maps = net(centre_crop(stored, recipe.crop.crop_px).float(), [layer])[layer]
        found.append(nn.functional.adaptive_avg_pool2d(maps, PROBE_GRID).flatten(1).numpy())
    return np.concatenate(found)


def features_of(method: str, data: RunData) -> np.ndarray:
    """Return the features (N, D) of all pictures of a run; they do not depend on labels or folds."""
    pixels = data.dataset.pixels
    if method.startswith("probe-"):
        return probe_features(pixels, data.recipe, method.removeprefix("probe-"))
    describe: dict[str, Callable[[np.ndarray], np.ndarray]] = {"hog": hog_features, "lbp": lbp_features}
    return describe[method](grey_crops(pixels, data.recipe.crop.crop_px))


def fit(method: str, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> GridSearchCV:
    """Train the method's classifier, its C chosen inside the training part, groups kept together."""
    probe = method.startswith("probe-")
    classifier: Any = LogisticRegression(max_iter=200) if probe else LinearSVC(random_state=0)
    pipeline = make_pipeline(StandardScaler(), classifier)
    inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(pipeline, {f"{pipeline.steps[-1][0]}__C": COSTS}, cv=inner)
    with warnings.catch_warnings():
        # The classes' order is settled long before the last digit of the weights; a class may be rarer than folds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class")
        return search.fit(features, labels, groups=groups)


def predict(data: RunData, methods: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Train and test each method on each split: method, fold, image, subject where known, truth, predicted, C."""
    manifest = data.dataset.manifest
    names = np.array(manifest.classes, dtype=object)
    columns = ["image"] if manifest.subjects is None else ["image", "subject"]
    for method in methods:
        features = features_of(method, data)
        for split in data.splits:
            labels = manifest.labels
            found = fit(method, features[split.train], labels[split.train], manifest.groups[split.train])
            table = manifest.table.iloc[split.test][columns].reset_index(drop=True)
            predicted = names[found.predict(features[split.test])]
            cost = next(iter(found.best_params_.values()))
            what = {"method": method, "fold": split.name, "seed": 0, "C": cost}
            yield table.assign(**what, truth=names[labels[split.test]], predicted=predicted)


def scores(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy and macro recall (the mean recall of the classes in the test part) of each method and fold."""
    rows = []
    for (method, fold), part in predictions.groupby(["method", "fold"], sort=False):
        truth, predicted = part["truth"], part["predicted"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
            recall = balanced_accuracy_score(truth, predicted)
        row = {"method": method, "fold": fold, "pictures": len(part), "accuracy": accuracy_score(truth, predicted)}
        rows.append(row | {"macro_recall": recall, "C": part["C"].iloc[0]})
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row of text for each method: mean over folds, ± their standard deviation."""
    rows = []
    for method, part in found.groupby("method", sort=False):
        row = {"method": method}
        for column, title in {"accuracy": "accuracy, %", "macro_recall": "macro recall, %"}.items():
            row[f"{title} (± over folds)"] = tables.percent_std(part[column].mean(), part[column].std())
        row["accuracy of each fold, %"] = ", ".join(tables.percent(value) for value in part["accuracy"])
        rows.append(row | {"C": ", ".join(f"{cost:g}" for cost in part["C"].unique())})
    return pd.DataFrame(rows)


def main() -> None:
    """Read the options, train and test, print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--method", action="append", dest="methods", help=f"of {', '.join(METHODS)}; by default all")
    parser.add_argument("--out", type=Path, help="folder for predictions.csv and scores.csv")
    given = parser.parse_args()
    predictions = pd.concat(predict(read_run_data(given.run), given.methods or METHODS), ignore_index=True)
    found = scores(predictions)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        predictions.to_csv(given.out / "predictions.csv", index=False)
        found.to_csv(given.out / "scores.csv", index=False)
    print(comparison.markdown(summary(found)))


if __name__ == "__main__":
    main()
