"""How much of the expression and of the identity features hold: linear probes and silhouettes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from facenet2expnet.errors import UserError

DIMENSIONS = 128
FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """A linear probe's result: a sentence on its folds, or why there is no score; accuracy and chance, or NaN.

    `chance` is the share of the commonest class.
    """

    summary: str
    accuracy: float = np.nan
    chance: float = np.nan


def expression_probe(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray | None, seed: int = 0
) -> Probe:
    """How well a linear classifier predicts the expression of subjects that it has not seen.

    Args:
        features: (N, U).
        labels: (N,) class numbers.
        subjects: (N,) names, or None if unknown: the folds are then stratified by class, and the score may be too high,
            since one subject can be on both sides.
        seed: of the folds.
    """
    if subjects is None:
        folds = min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
        if folds < 2:
            return Probe("A class has a single image, so there is no probe.")
        splitter: Any = StratifiedKFold(folds, shuffle=True, random_state=seed)
        summary = f"{folds} folds stratified by class; subjects are unknown, so the score may be too high."
        return _probe(features, labels, splitter, None, summary)
    folds = min(FOLDS, len(np.unique(subjects.astype(str))))
    if folds < 2:
        return Probe("There is one subject only, so none can be held out.")
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    return _probe(features, labels, splitter, subjects.astype(str), f"{folds} subject-independent folds.")


def identity_probe(
    features: np.ndarray, subjects: np.ndarray | None, sequences: np.ndarray | None, seed: int = 0
) -> Probe:
    """How well a linear classifier predicts the subject of sequences (or images) that it has not seen.

    Subjects with a single sequence are left out. If sequences are unknown images are held out, and neighbouring frames
    of one video make the score too high.

    Args:
        features: (N, U).
        subjects: (N,) names, or None if unknown.
        sequences: (N,) names within the subject, or None if unknown.
        seed: of the folds.
    """
    if subjects is None:
        return Probe("Subjects are unknown, so there is no probe.")
    names, held_out = subjects.astype(str), "images" if sequences is None else "sequences"
    numbers = np.arange(len(names)) if sequences is None else sequences
    groups = np.array([f"{name}\n{number}" for name, number in zip(names, numbers, strict=True)])
    counts = {name: len(np.unique(groups[names == name])) for name in np.unique(names)}
    kept = sorted(count for count in counts.values() if count >= 2)
    if len(kept) < 2:
        return Probe(f"Fewer than two subjects have two {held_out}, so there is no probe.")
    folds = max(2, min(FOLDS, kept[len(kept) // 2]))
    summary = f"{folds} folds that hold out {held_out} of the same {len(kept)} subjects."
    if sequences is None:
        summary += (
            " Sequences are unknown: similar frames can be on both sides, and the score may be too high."
        )
    rows = np.array([counts[name] >= 2 for name in names])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return _probe(features[rows], names[rows], splitter, groups[rows], summary)


def _probe(
    features: np.ndarray, targets: np.ndarray, splitter: Any, groups: np.ndarray | None, summary: str
) -> Probe:
    """Standardise, project to `DIMENSIONS`, logistic regression; all fitted on the training folds alone."""
    size = max(1, min(DIMENSIONS, features.shape[1], len(features) // 2 - 1))
    classifier = make_pipeline(
        StandardScaler(), PCA(size, random_state=0), StandardScaler(), LogisticRegression(C=0.1, max_iter=300)
    )
    try:
        with warnings.catch_warnings():  # a subject with fewer sequences than folds is in some of them only
            warnings.filterwarnings("ignore", message="The least populated class")
            predicted = cross_val_predict(classifier, features, targets, cv=splitter, groups=groups)
    except ValueError as error:
        return Probe(f"No probe could be fitted: {str(error).splitlines()[0]}")
    _, counts = np.unique(targets, return_counts=True)
    return Probe(summary, float((predicted == targets).mean()), float(counts.max() / len(targets)))


def main_axes(features: np.ndarray, dimensions: int = 50) -> np.ndarray:
    """Features (N, U), each unit standardised over the images, projected to their main axes, (N, <= dimensions).

    Raises:
        UserError: If the features are the same for all images.
    """
    scaled = StandardScaler().fit_transform(features)
    if not scaled.any():
        raise UserError("the features are the same for every image, expected a network that tells them apart")
    size = min(dimensions, features.shape[1], len(features) - 1)
    projected: np.ndarray = PCA(size, random_state=0).fit_transform(scaled)
    return projected


def silhouette(points: np.ndarray, groups: np.ndarray | None) -> float:
    """Mean silhouette of the groups, -1..1, higher if they are apart; NaN if it is not defined."""
    if groups is None or not 2 <= len(np.unique(groups.astype(str))) < len(points):
        return float("nan")
    return float(silhouette_score(points, groups.astype(str)))
