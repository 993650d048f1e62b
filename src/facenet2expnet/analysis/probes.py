"""What can be read from features: linear probes and silhouettes, for the expression and for the person."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

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
    """A linear probe's score.

    Attributes:
        accuracy: share of held-out pictures named rightly; NaN where no probe could be made.
        chance: share of the commonest class among them.
        pictures: how many were held out in turn.
        note: how the folds were cut, or why there is no score; a plain sentence.
    """

    accuracy: float
    chance: float
    pictures: int
    note: str


def expression_probe(
    features: np.ndarray, labels: np.ndarray, subjects: np.ndarray | None, seed: int = 0, folds: int = FOLDS
) -> Probe:
    """How well a linear classifier names the expression of persons that it has not seen.

    Args:
        features: (N, U).
        labels: (N,) class numbers.
        subjects: (N,) names, or None where unknown: the folds are then stratified by class, and the score may be too
            high, since one person can stand on both sides.
        seed: of the folds and the projection.
        folds: at most; fewer where there are fewer subjects.
    """
    if subjects is None:
        smallest = int(np.bincount(labels)[np.unique(labels)].min())
        if smallest < 2:
            return Probe(np.nan, np.nan, 0, "A class has a single picture, so no probe could be made.")
        splitter = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
        note = f"{splitter.n_splits} folds stratified by class; subjects are unknown, so the score may be too high."
        return _probe(features, labels, splitter, None, note)
    persons = len(np.unique(subjects.astype(str)))
    if persons < 2:
        return Probe(np.nan, np.nan, 0, "There is one subject only, so none can be held out.")
    splitter = GroupKFold(min(folds, persons), shuffle=True, random_state=seed)
    note = f"{splitter.n_splits} folds, no subject on two sides."
    return _probe(features, labels, splitter, subjects.astype(str), note)


def identity_probe(
    features: np.ndarray,
    subjects: np.ndarray | None,
    sequences: np.ndarray | None,
    seed: int = 0,
    folds: int = FOLDS,
) -> Probe:
    """How well a linear classifier names the person in sequences (or pictures) that it has not seen.

    A subject needs two sequences at least, one to learn and one to be tested on; others are left out. Where sequences
    are unknown pictures are held out, and neighbouring frames of one video make the score too high.

    Args:
        features: (N, U).
        subjects: (N,) names, or None where unknown: there is no score then.
        sequences: (N,) names within the subject, or None where unknown.
        seed: of the folds and the projection.
        folds: at most; fewer where subjects have fewer sequences.
    """
    if subjects is None:
        return Probe(np.nan, np.nan, 0, "Subjects are unknown, so identity can't be probed.")
    names = subjects.astype(str)
    if sequences is None:
        groups = np.arange(len(names)).astype(str)
        held = "pictures"
    else:
        groups = np.array([f"{name}\n{sequence}" for name, sequence in zip(names, sequences, strict=True)])
        held = "sequences"
    owned = {name: len(np.unique(groups[names == name])) for name in np.unique(names)}
    keep = np.array([owned[name] >= 2 for name in names])
    kept = {name for name, count in owned.items() if count >= 2}
    if len(kept) < 2:
        return Probe(
            np.nan, np.nan, 0, f"Fewer than two subjects have two {held}, so identity can't be probed."
        )
    count = min(folds, sorted(owned[name] for name in kept)[len(kept) // 2])
    splitter = StratifiedGroupKFold(max(2, count), shuffle=True, random_state=seed)
    note = f"{splitter.n_splits} folds that hold out {held} of the same {len(kept)} subjects."
    if held == "pictures":
        note += " Sequences are unknown: like frames can stand on both sides, and the score may be too high."
    return _probe(features[keep], names[keep], splitter, groups[keep], note)


def _probe(
    features: np.ndarray, targets: np.ndarray, splitter: object, groups: np.ndarray | None, note: str
) -> Probe:
    """Standardise, project to `DIMENSIONS`, logistic regression; all of it learned from the training folds alone."""
    smallest_part = len(features) - -(-len(features) // 2)
    size = max(1, min(DIMENSIONS, features.shape[1], smallest_part - 1))
    classifier = make_pipeline(
        StandardScaler(), PCA(size, random_state=0), StandardScaler(), LogisticRegression(C=0.1, max_iter=300)
    )
    try:
        with warnings.catch_warnings():
            # A subject with fewer sequences than there are folds is in some of them only; that is meant.
            warnings.filterwarnings("ignore", message="The least populated class")
            predicted = cross_val_predict(classifier, features, targets, cv=splitter, groups=groups)
    except ValueError as error:
        return Probe(np.nan, np.nan, 0, f"No probe could be made: {str(error).splitlines()[0]}")
    _, counts = np.unique(targets, return_counts=True)
    return Probe(float((predicted == targets).mean()), float(counts.max() / len(targets)), len(targets), note)


def reduced(features: np.ndarray, dimensions: int = 50) -> np.ndarray:
    """Features (N, U), each unit standardised over the pictures, projected to their main axes, (N, <= dimensions).

    Raises:
        UserError: If the features are the same for all pictures.
    """
    scaled = StandardScaler().fit_transform(features)
    if not scaled.any():
        raise UserError(
            "the features are the same for every picture, expected a network that tells them apart"
        )
    size = min(dimensions, features.shape[1], len(features) - 1)
    projected: np.ndarray = PCA(size, random_state=0).fit_transform(scaled)
    return projected


def silhouette(points: np.ndarray, groups: np.ndarray | None) -> float:
    """Mean silhouette of the groups, -1..1, higher where each lies apart; NaN where it is not defined."""
    if groups is None or not 2 <= len(np.unique(groups.astype(str))) < len(points):
        return float("nan")
    return float(silhouette_score(points, groups.astype(str)))
