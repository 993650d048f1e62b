"""Test whether two methods differ, counting chance in training as well as the choice of test subjects.

A training is one fold with one seed. A test over subjects alone takes the spread between trainings for a difference of
methods: with equal methods, five trainings that spread by 1 point, and 3,575 pictures, 30 % of such tests come out
below p = 0.05; the test used here stays below 7 % (`tests/experiment/test_significance.py`).

Two limits. The folds of a cross-validation share training pictures, so no interval covers other training data
altogether. And two or three folds tell little about folds: where the two methods differ by points from fold to fold,
several seeds in so few folds give p < 0.05 in up to 14 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

ROUNDING = 1e-12
"""Differences and errors below this are rounding."""

TEST = "t test with the variance between trainings and between test units"


@dataclass(frozen=True, eq=False)
class FoldScores:
    """The accuracies of two methods on the test units (subjects or pictures) of one fold.

    Attributes:
        units: (U,) number of each unit, the same in every fold that tests it.
        pictures: (U,) pictures of each unit in this fold.
        scores: (2, S, U) accuracy in 0..1 of both methods in S trainings.
    """

    units: Ints
    pictures: Ints
    scores: Floats


@dataclass(frozen=True)
class PairedComparison:
    """The difference of two methods on the same pictures.

    Attributes:
        difference: accuracy of `first` minus `second`, in -1..1; the mean over units, so each subject counts the same.
        low, high: the 95 % interval; None where no spread is known, as with one unit.
        p_value: two-sided; None where the spread between trainings is not known, see `reason`.
        unit: "subject"; "picture" where no subject is known; "subject or picture" where some are.
        trainings: trainings of each method.
        test: name of the test, "" without a p value.
        covers: a sentence on what the interval covers.
        reason: a sentence on why there is no p value, else "".
        unpaired: predictions left out because another training of the fold has none of that picture.
        p_holm: the p value after Holm's correction for all pairs; only from `compare_all`.
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    unit: str
    units: int
    trainings: int
    test: str
    covers: str
    reason: str
    unpaired: int
    p_holm: float | None = None


def compare_all(predictions: pd.DataFrame) -> list[PairedComparison]:
    """Compare every pair of methods, the later in the table minus the earlier, with Holm-corrected p values."""
    methods = list(pd.unique(predictions["method"]))
    pairs = [(later, earlier) for number, later in enumerate(methods) for earlier in methods[:number]]
    found = [compare_paired(predictions, *pair) for pair in pairs]
    adjusted = iter(holm([one.p_value for one in found if one.p_value is not None]))
    return [one if one.p_value is None else replace(one, p_holm=next(adjusted)) for one in found]


def compare_paired(predictions: pd.DataFrame, first: str, second: str) -> PairedComparison:
    """Compare two methods on the pictures that all trainings of both predicted; see `estimate_difference`.

    Args:
        predictions: columns image, fold, seed, method, truth, predicted, and subject where known.
        first: a method.
        second: the method that is subtracted.
    Raises:
        ValueError: If the methods share no picture, or one has two predictions of a picture in one training.
    """
    folds, unit = _fold_scores(predictions, first, second)
    units = len(np.unique(np.concatenate([fold.units for fold in folds])))
    trainings = sum(fold.scores.shape[1] for fold in folds)
    used = sum(2 * fold.scores.shape[1] * int(fold.pictures.sum()) for fold in folds)
    difference, variance, degrees = estimate_difference(folds)
    error = float(np.sqrt(variance)) if variance > ROUNDING**2 else 0.0
    low, high, p_value, reason = None, None, None, ""
    choice = f"the choice of the {units:,} {unit.replace('subject or', 'subjects or')}s"
    covers = f"The interval covers {choice} and chance in {trainings} trainings of each method."
    known = degrees > 0 and (error > 0 or abs(difference) < ROUNDING)
    if known:
        half = error * float(stats.t.ppf(0.975, degrees))
        low, high = difference - half, difference + half
    if trainings == 1:
        covers = f"The interval covers {choice} only, not chance in training."
        reason = "One training of each method shows no spread between trainings: use more seeds or folds."
    elif not known:
        reason = "The spread is not known: all trainings and test units show the same difference, or there is one unit."
    else:
        p_value = float(2 * stats.t.sf(abs(difference) / error, degrees)) if error else 1.0
    return PairedComparison(
        first,
        second,
        difference,
        low=low,
        high=high,
        p_value=p_value,
        unit=unit,
        units=units,
        trainings=trainings,
        test="" if p_value is None else TEST,
        covers=covers,
        reason=reason,
        unpaired=int(predictions["method"].isin([first, second]).sum()) - used,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p values, in the order given; none gets smaller."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    p[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in p]


def estimate_difference(folds: Sequence[FoldScores]) -> tuple[float, float, float]:
    """Estimate the mean difference over units, first minus second, and its variance over trainings and units.

    - Several seeds in each fold: the variance within folds is the part of the trainings plus the part of the units
      minus their interaction (two-way random effects). Trainings of two methods are independent even with one seed,
      so the first part is Welch's sum of both methods' variances; this is cautious where both start from one
      fine-tuned face net. The result is at least each part alone, and the variance that the folds' differences show.
    - Several folds with one seed: the variance between folds, which holds trainings and units alike.
    - One training: the variance between units.

    Returns:
        Difference in -1..1, its variance, and the degrees of freedom for Student's t (Satterthwaite's); 0 with fewer
        than two units.
    Source: Clark, The language-as-fixed-effect fallacy, 1973; Cameron, Gelbach and Miller, Robust inference with
        multiway clustering, 2011.
    """
    # A cell is a unit in a fold; cells of one fold follow each other. The weights of a unit's cells sum to 1 / units.
    cell_fold = np.repeat(np.arange(len(folds)), [len(fold.units) for fold in folds])
    cell_unit = np.unique(np.concatenate([fold.units for fold in folds]), return_inverse=True)[1]
    pictures = np.concatenate([fold.pictures for fold in folds])
    units = int(cell_unit.max()) + 1
    weights = pictures / np.bincount(cell_unit, pictures)[cell_unit] / units
    cells = np.concatenate([fold.scores[0].mean(axis=0) - fold.scores[1].mean(axis=0) for fold in folds])
    difference, trainings = float(weights @ cells), [fold.scores.shape[1] for fold in folds]
    if units < 2:
        return difference, 0.0, 0.0

    between_units, between_cells, between_folds = (
        _variance(weights * (cells - difference), weights, clusters)
        for clusters in (cell_unit, np.arange(len(cells)), cell_fold)
    )
    if trainings == [1]:
        return difference, between_units, units - 1.0
    between_folds += max(0.0, between_units - between_cells)  # 0 if every unit is tested in one fold only
    if min(trainings) == 1:
        return difference, between_folds, len(folds) - 1.0

    parts = [_parts_within(fold.scores, weights[cell_fold == i]) for i, fold in enumerate(folds)]
    of_first, of_second, of_units, interaction = np.sum(parts, axis=0)
    of_trainings, free = of_first + of_second, sum(trainings) - len(folds)
    variance = max(of_trainings, of_units, of_trainings + of_units - interaction)
    excess = max(0.0, between_folds - variance) if len(folds) > 1 else 0.0
    squares = (of_first**2 + of_second**2) / free + of_units**2 / units + interaction**2 / (2 * free * units)
    squares += excess**2 / max(1, len(folds) - 1)
    variance = float(variance + excess)
    return difference, variance, min(variance**2 / float(squares), units - 1.0) if squares else units - 1.0


def _variance(deviations: Floats, weights: Floats, clusters: Ints) -> float:
    """The variance of a weighted mean from its centred terms, independent between clusters only."""
    sums, shares = np.bincount(clusters, deviations), np.bincount(clusters, weights)
    return float((sums**2 / np.maximum(1 - shares, 1e-12)).sum())


def _parts_within(scores: Floats, weights: Floats) -> list[float]:
    """The parts of a fold's variance: trainings of the first method, of the second, units, and interaction.

    Args:
        scores: (2, S, U) with S >= 2.
        weights: (U,)
    """
    count, size = scores.shape[1:]
    totals, means = scores @ weights, scores.mean(axis=1)  # (2, S), (2, U)
    of_first, of_second = totals.var(axis=1, ddof=1) / count
    differences = means[0] - means[1]
    of_units = weights * (differences - weights @ differences / weights.sum())
    effects = (totals - totals.mean(axis=1, keepdims=True)) / weights.sum()
    rest = weights * (scores - means[:, None, :] - effects[:, :, None])
    scale = size / max(1, size - 1)
    return [of_first, of_second, scale * (of_units**2).sum(), scale * (rest**2).sum() / (count * (count - 1))]


def subjects(predictions: pd.DataFrame) -> pd.Series:
    """The subject of each row as text, "" where it is not known."""
    if "subject" not in predictions:
        return pd.Series("", index=predictions.index)
    return predictions["subject"].astype(object).where(predictions["subject"].notna(), "").astype(str)


def _fold_scores(predictions: pd.DataFrame, first: str, second: str) -> tuple[list[FoldScores], str]:
    """The scores of two methods in each fold, and the name of the unit."""
    rows = predictions[predictions["method"].isin([first, second])]
    subject = subjects(rows)
    blank = subject == ""
    unit = "picture" if blank.all() else "subject or picture" if blank.any() else "subject"
    owners = ("picture " + rows["image"].astype(str)).where(blank, "subject " + subject)
    correct = (rows["truth"].astype(str) == rows["predicted"].astype(str)).astype(float)
    rows = rows[["fold", "image", "method", "seed"]].assign(unit=pd.factorize(owners)[0], correct=correct)
    found = []
    for _, part in rows.groupby("fold"):
        table = part.pivot(index=["unit", "image"], columns=["method", "seed"], values="correct")
        seeds = [set(table[method].columns) if method in table else set() for method in (first, second)]
        common = sorted(seeds[0] & seeds[1])
        table = table[[(method, seed) for method in (first, second) for seed in common]].dropna()
        if len(table) and common:
            by_unit = table.groupby(level="unit")
            sizes, means = by_unit.size(), by_unit.mean().to_numpy(np.float64)
            scores = means.T.reshape(2, len(common), -1)
            found.append(FoldScores(sizes.index.to_numpy(), sizes.to_numpy(), scores))
    if not found:
        raise ValueError(f"paired comparison: '{first}' and '{second}' have no picture in common")
    return found, unit
