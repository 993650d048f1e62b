"""Scores of predictions: accuracy, confusion, calibration, and the summary of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from facenet2expnet.data.manifest import natural_key
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.significance import Floats, Ints, compare_all, subjects

Bools = npt.NDArray[np.bool_]

CALIBRATION_SCORES = ("negative_log_likelihood", "expected_calibration_error")
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", *CALIBRATION_SCORES)
"""The scores of a training in `summarise`, in the order of the tables."""

PROBABILITY_FLOOR = 1e-12
"""Smaller probabilities count as this in the log loss, so that one certain mistake stays finite."""


def confusion(truth: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Count the pictures of each true class (rows) by predicted class (columns), (K, K).

    Args:
        truth: (N,) class names or numbers, N >= 1.
        predicted: (N,) likewise.
        classes: the K names or numbers in order.
    Raises:
        ValueError: If the lengths differ, there are no pictures, or no truth is one of the classes.
    """
    return np.asarray(confusion_matrix(truth, predicted, labels=list(classes)), dtype=np.int64)


def negative_log_likelihood(probabilities: Floats, truth: Ints) -> float:
    """Mean of -log p(truth), in nats, >= 0.

    Args:
        probabilities: (N, K) in 0..1; values below 1e-12 count as 1e-12.
        truth: (N,) class numbers.
    """
    chosen = np.asarray(probabilities, dtype=np.float64)[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(chosen, PROBABILITY_FLOOR, 1.0)).mean())


def reliability(confidence: Floats, correct: Bools, bins: int = 15) -> list[dict[str, float]]:
    """Compare confidence and accuracy in bins of equal width.

    Args:
        confidence: (N,) probability of the predicted class, 0..1.
        correct: (N,) whether the predicted class is the truth.
        bins: number of bins over 0..1; a bin holds its upper edge, the first one 0 as well.
    Returns:
        For each bin: low, high, pictures, and the means confidence and accuracy, NaN without pictures.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 2.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    pictures = np.bincount(place, minlength=bins)
    table: Any = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "pictures": pictures})
    with np.errstate(invalid="ignore"):
        for name, values in {"confidence": confidence, "accuracy": correct}.items():
            table[name] = np.bincount(place, values, bins) / pictures
    return list(table.to_dict("records"))


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over `reliability`'s bins, weighted by pictures, 0..1."""
    filled = [part for part in reliability(confidence, correct, bins) if part["pictures"]]
    distance = sum(part["pictures"] * abs(part["confidence"] - part["accuracy"]) for part in filled)
    return distance / sum(part["pictures"] for part in filled)


def accuracy_per_subject(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """List the subjects in natural order with pictures (rows) and accuracy; empty where one is unknown."""
    subject = subjects(predictions)
    if (subject == "").any():
        return []
    correct = predictions["truth"].astype(str) == predictions["predicted"].astype(str)
    table: Any = correct.groupby(subject).agg(pictures="size", accuracy="mean")
    table = table.loc[sorted(table.index, key=natural_key)].rename_axis("subject").reset_index()
    return list(table.to_dict("records"))


def scores_of(probabilities: Floats, predicted: Ints, truth: Ints) -> dict[str, float]:
    """Compute every score of `SCORES`.

    Balanced accuracy is the mean recall of the classes that have pictures; macro F1 is the mean over the classes
    that have pictures or were predicted.

    Args:
        probabilities: (N, K), N >= 1.
        predicted: (N,) class numbers.
        truth: (N,) class numbers.
    """
    _, recalls, f1_scores, _ = _per_class(truth, predicted, probabilities.shape[1])
    correct = truth == predicted
    confidence = probabilities[np.arange(len(truth)), predicted]
    return {
        "accuracy": float(correct.mean()),
        "balanced_accuracy": float(np.nanmean(recalls)),
        "macro_f1": float(np.nanmean(f1_scores)),
        "negative_log_likelihood": negative_log_likelihood(probabilities, truth),
        "expected_calibration_error": expected_calibration_error(confidence, correct),
    }


def _per_class(truth: Ints, predicted: Ints, classes: int) -> tuple[Floats, Floats, Floats, Ints]:
    """Precision, recall, F1 (NaN where they have no pictures) and number of pictures of each class, four times (K,)."""
    return precision_recall_fscore_support(truth, predicted, labels=range(classes), zero_division=np.nan)


def _arrays(rows: pd.DataFrame, classes: Sequence[str]) -> tuple[Floats, Ints, Ints]:
    """Probabilities (N, K), predicted and true class numbers (N,) of a predictions table."""
    number = {name: i for i, name in enumerate(classes)}
    predicted, truth = (rows[name].astype(str).map(number).to_numpy(np.int64) for name in ("predicted", "truth"))
    return rows[[f"p_{name}" for name in classes]].to_numpy(np.float64), predicted, truth


def scores_of_method(rows: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Compute one method's part of `summarise` from its predictions."""
    runs = []
    for (fold, _), part in rows.groupby(["fold", "seed"], sort=False):
        found = scores_of(*_arrays(part, classes))
        runs.append({"fold": str(fold), "seed": int(part["seed"].iloc[0]), "pictures": len(part), **found})
    table = pd.DataFrame(runs)
    per_fold = table.groupby("fold", sort=False)[list(SCORES)].mean()
    per_seed = table.groupby("seed", sort=False)[list(SCORES)].mean()
    probabilities, predicted, truth = _arrays(rows, classes)
    pooled = scores_of(probabilities, predicted, truth)
    counts = confusion(truth, predicted, range(len(classes)))
    by_class = zip(classes, *_per_class(truth, predicted, len(classes)), strict=True)
    method = {
        "folds": len(per_fold),
        "seeds": [int(seed) for seed in per_seed.index],
        "runs": runs,
        "mean": per_fold.mean().to_dict(),
        "std": per_fold.std(ddof=1).to_dict(),
        "std_over_seeds": per_seed.std(ddof=1).to_dict(),
        "pooled": {"pictures": len(rows), **pooled, "confusion": counts.tolist()},
        "per_class": [
            {"class": name, "pictures": int(pictures), "recall": recall, "precision": precision, "f1": f1}
            for name, precision, recall, f1, pictures in by_class
        ],
        "per_subject": accuracy_per_subject(rows),
        "reliability": reliability(probabilities[np.arange(len(rows)), predicted], truth == predicted),
    }
    if "temperature" in rows and rows["temperature"].notna().all():
        temperatures = rows["temperature"].to_numpy(np.float64)
        before = scores_of(unscaled(probabilities, temperatures), predicted, truth)
        by_training = rows.groupby(["fold", "seed"], sort=False)["temperature"]
        method["scaling"] = {
            "temperatures": [float(part.iloc[0]) for _, part in by_training],
            "before": {name: before[name] for name in CALIBRATION_SCORES},
            "after": {name: pooled[name] for name in CALIBRATION_SCORES},
        }
    return method


def unscaled(probabilities: Floats, temperatures: Floats) -> npt.NDArray[np.float64]:
    """Undo temperature scaling: softmax(scores) from softmax(scores / T).

    Args:
        probabilities: (N, K) rows that sum to 1.
        temperatures: (N,) the T of each row.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-300))
    return np.asarray(softmax(logs * temperatures[:, None], axis=1))


def summarise(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Compute every score of every method, ready for JSON (an undefined number is None).

    Per method: `runs` (each fold and seed); `mean` and `std` over folds (the seeds of a fold are averaged first; sample
    standard deviation, None with one fold); `std_over_seeds` (of the mean over folds; None with one seed); `pooled`
    over all rows with the confusion counts; `per_class`; `per_subject` (empty where a subject is unknown);
    `reliability`; with a column `temperature` also `scaling`, log loss and calibration error before and after it.
    `paired_tests` holds a `PairedComparison` of every pair of methods, the later minus the earlier. Rows without a
    truth are counted in `unlabelled` and left out.

    Args:
        predictions: columns image, fold, method, seed, truth, predicted, p_<class>, and subject where known.
        classes: class names in the order of the tables.
    Raises:
        ValueError: If a column is missing, no row has a truth, or a name is not one of the classes.
    """
    needed = ["image", "fold", "method", "seed", "truth", "predicted", *(f"p_{name}" for name in classes)]
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise ValueError(f"predictions: expected the column {missing[0]!r}, which is missing")
    rows = predictions[predictions["truth"].notna() & (predictions["truth"].astype(str) != "")]
    if rows.empty:
        raise ValueError("predictions: expected at least one row with a truth, got none")
    for column in ("truth", "predicted"):
        unknown = set(rows[column].astype(str)) - set(classes)
        if unknown:
            raise UserError(f"predictions: {column} '{min(unknown)}' is not one of the classes {', '.join(classes)}")
    methods = rows.groupby("method", sort=False)
    summary = {
        "classes": list(classes),
        "pictures": int(rows["image"].nunique()),
        "unlabelled": len(predictions) - len(rows),
        "subjects_known": not (subjects(rows) == "").any(),
        "methods": {str(name): scores_of_method(part, classes) for name, part in methods},
        "paired_tests": [asdict(comparison) for comparison in compare_all(rows)],
    }
    return _plain(summary)


def _plain(value: Any) -> Any:
    """Replace NaN by None and NumPy's scalars by Python's, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
