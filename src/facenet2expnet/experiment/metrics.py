"""How good predictions are: plain arrays in, plain values out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from facenet2expnet.experiment.calibration import unscaled

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

SCORES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "negative_log_likelihood",
    "expected_calibration_error",
)
"""The scores that `summarise` gives for every run, in the order of the tables."""

PROBABILITY_FLOOR = 1e-12
"""A probability below this counts as this in the log likelihood, so that one certain mistake stays finite."""

EXACT_UNITS = 18
"""Up to so many units that differ, every one of the 2^n sign flips is looked at; above, a random sample."""

FLIPS = 100_000
RESAMPLES = 10_000


def _checked(truth: Ints, predicted: Ints, classes: int | None = None) -> tuple[Ints, Ints]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise ValueError(f"expected two arrays of one length, got shapes {truth.shape} and {predicted.shape}")
    if truth.size == 0:
        raise ValueError("expected at least one prediction, got none")
    for name, values in (("truth", truth), ("predicted", predicted)):
        if classes is not None and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"{name}: expected class numbers 0..{classes - 1}, got {values.min()}..{values.max()}"
            )
    return truth, predicted


def accuracy(truth: Ints, predicted: Ints) -> float:
    """Share of pictures whose class was named rightly, in 0..1.

    Args:
        truth: (N,) class numbers.
        predicted: (N,) class numbers.
    Raises:
        ValueError: If the arrays differ in length or are empty.
    """
    truth, predicted = _checked(truth, predicted)
    return float(np.mean(truth == predicted))


def confusion(truth: Ints, predicted: Ints, classes: int) -> npt.NDArray[np.int64]:
    """Counts of every truth (rows) named as every class (columns), (K, K).

    Raises:
        ValueError: If the arrays differ in length, are empty, or hold a number outside 0..classes - 1.
    """
    truth, predicted = _checked(truth, predicted, classes)
    flat = np.bincount(truth.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def _share(part: Ints, whole: Ints) -> npt.NDArray[np.float64]:
    """part / whole, NaN where whole is 0."""
    out = np.full(len(whole), np.nan)
    np.divide(part, whole, out=out, where=np.asarray(whole) > 0)
    return out


def recalls(counts: Ints) -> npt.NDArray[np.float64]:
    """Per class, the share of its pictures named rightly; NaN where there are no pictures. counts: (K, K)."""
    return _share(np.diag(counts), counts.sum(axis=1))


def precisions(counts: Ints) -> npt.NDArray[np.float64]:
    """Per class, the share of those named so that are so; NaN for a class never named. counts: (K, K)."""
    return _share(np.diag(counts), counts.sum(axis=0))


def f1_scores(counts: Ints) -> npt.NDArray[np.float64]:
    """Per class, the harmonic mean of both; NaN for a class neither there nor named. counts: (K, K)."""
    return _share(2 * np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))


def balanced_accuracy(counts: Ints) -> float:
    """Mean recall over the classes that have pictures, in 0..1. counts: (K, K), rows truth."""
    return float(np.nanmean(recalls(counts)))


def macro_f1(counts: Ints) -> float:
    """Mean F1 over the classes that are there or were named, as in scikit-learn. counts: (K, K)."""
    return float(np.nanmean(f1_scores(counts)))


def negative_log_likelihood(probabilities: Floats, truth: Ints) -> float:
    """Mean of -log p(truth), in nats, >= 0.

    Args:
        probabilities: (N, K) in 0..1; values below 1e-12 count as 1e-12.
        truth: (N,) class numbers.
    Raises:
        ValueError: If the shapes do not fit or a truth is outside 0..K - 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities: expected shape (N, K), got {probabilities.shape}")
    truth, _ = _checked(truth, truth, probabilities.shape[1])
    if len(truth) != len(probabilities):
        raise ValueError(
            f"expected {len(probabilities)} truths, one a row of probabilities, got {len(truth)}"
        )
    chosen = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(chosen, PROBABILITY_FLOOR, 1.0)).mean())


@dataclass(frozen=True)
class ReliabilityBin:
    """Pictures with a confidence in (low, high]; confidence and accuracy are means, NaN without pictures."""

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


def reliability(confidence: Floats, correct: Bools, bins: int = 15) -> list[ReliabilityBin]:
    """Confidence against accuracy in bins of equal width.

    Args:
        confidence: (N,) probability of the predicted class, 0..1.
        correct: (N,) whether the predicted class is the truth.
        bins: number of bins over 0..1; a bin holds its upper edge, the first one 0 as well.
    Raises:
        ValueError: If the arrays differ in length or are empty.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 2.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.shape != correct.shape or confidence.ndim != 1 or confidence.size == 0:
        raise ValueError(
            f"expected two filled arrays of one length, got shapes {confidence.shape} and {correct.shape}"
        )
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, bins - 1)
    pictures = np.bincount(which, minlength=bins)
    mean_confidence = _share(np.bincount(which, weights=confidence, minlength=bins), pictures)
    mean_accuracy = _share(np.bincount(which, weights=correct, minlength=bins), pictures)
    return [
        ReliabilityBin(
            float(edges[i]),
            float(edges[i + 1]),
            int(pictures[i]),
            float(mean_confidence[i]),
            float(mean_accuracy[i]),
        )
        for i in range(bins)
    ]


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over `reliability`'s bins, weighted by pictures, 0..1."""
    filled = [b for b in reliability(confidence, correct, bins) if b.pictures]
    total = sum(b.pictures for b in filled)
    return sum(b.pictures * abs(b.confidence - b.accuracy) for b in filled) / total


@dataclass(frozen=True)
class PairedTest:
    """Whether two methods differ on the same pictures.

    `difference` is first minus second, the mean over the units, in -1..1; `low` and `high` are its 95 % bootstrap
    interval over the same units (NaN with fewer than two units). `unit` is "subject", "picture" where no subject is
    known, or "subject or picture" where some are: a picture whose subject is not known is then a unit of its own.
    `unpaired` counts the predictions that only one of the two has; they are left out.
    """

    first: str
    second: str
    test: str
    unit: str
    units: int
    difference: float
    low: float
    high: float
    p_value: float
    unpaired: int


def sign_flip_p_value(differences: Floats, seed: int = 0) -> float:
    """Two-sided p value of the mean of paired differences when each could as well have the other sign.

    Exact up to 18 differences that are not 0; above that from 100,000 random flips, where the observed one
    counts too (so p is never 0). Differences of 0 change nothing; with no others p is 1.

    Args:
        differences: (U,) one difference a unit.
        seed: of the random flips.
    """
    values = np.abs(np.asarray(differences, dtype=np.float64))
    observed = abs(float(np.sum(differences)))
    values = values[values > 1e-12]
    slack = 1e-9 * max(1.0, float(values.sum()))
    if len(values) <= EXACT_UNITS:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate((sums + value, sums - value))
        return float(np.mean(np.abs(sums) >= observed - slack))
    # m equal differences with random signs sum to value * (2 Binomial(m, 1/2) - m).
    distinct, repeats = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    sums = np.zeros(FLIPS)
    for value, repeat in zip(distinct, repeats, strict=True):
        sums += value * (2.0 * rng.binomial(repeat, 0.5, FLIPS) - repeat)
    return float((1 + np.count_nonzero(np.abs(sums) >= observed - slack)) / (1 + FLIPS))


def bootstrap_interval(values: Floats, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of (U,) values, from 10,000 resamples; NaN with fewer than two."""
    if len(values) < 2:
        return math.nan, math.nan
    distinct, repeats = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(values), repeats / len(values), RESAMPLES)
    low, high = np.percentile(drawn @ distinct / len(values), [2.5, 97.5])
    return float(low), float(high)


def _subjects_known(predictions: pd.DataFrame) -> bool:
    return "subject" in predictions and len(predictions) > 0 and not _without_subject(predictions).any()


def _without_subject(predictions: pd.DataFrame) -> pd.Series:
    """Which rows of a table with the column subject name none."""
    subject = predictions["subject"]
    return subject.isna() | (subject.astype(str) == "")


def _units(predictions: pd.DataFrame) -> tuple[str, pd.Series]:
    """What `PairedTest` calls the unit, and every row's own."""
    images = "picture " + predictions["image"].astype(str)
    if "subject" not in predictions:
        return "picture", images
    blank = _without_subject(predictions)
    unit = "picture" if blank.all() else "subject or picture" if blank.any() else "subject"
    return unit, images.where(blank, "subject " + predictions["subject"].astype(str))


def paired_test(predictions: pd.DataFrame, first: str, second: str, seed: int = 0) -> PairedTest:
    """Test whether two methods differ, on the pictures that both have seen.

    Where subjects are known: a sign-flip permutation test over the differences of per-subject accuracy, since
    pictures of one subject are not independent of each other; a picture without a subject counts as one of its
    own. Where none is known, with one prediction a picture and method: the exact McNemar test over pictures. Else
    (several seeds): the sign-flip test over pictures, which McNemar's is a case of.

    Args:
        predictions: columns image, fold, seed, method, truth, predicted, and subject where known.
        first: a method.
        second: the method that is subtracted.
        seed: of the random flips and the bootstrap.
    Raises:
        ValueError: If a method has no predictions or the two share no picture.
    """
    keys = ["image", "fold", "seed"]
    sides = []
    for method in (first, second):
        side = predictions[predictions["method"] == method]
        if side.empty:
            found = ", ".join(map(str, pd.unique(predictions["method"])))
            raise ValueError(f"paired test: no predictions of method '{method}', only of {found}")
        correct = (side["truth"].astype(str) == side["predicted"].astype(str)).astype(float)
        sides.append(side.assign(correct=correct))
    columns = [*keys, "correct"]
    left = sides[0][[*columns, "subject"]] if "subject" in predictions else sides[0][columns]
    both = left.merge(sides[1][columns], on=keys, suffixes=("_first", "_second"))
    if both.empty:
        raise ValueError(f"paired test: '{first}' and '{second}' have no picture in common")
    both["difference"] = both["correct_first"] - both["correct_second"]
    unit, owners = _units(both)
    groups = both.groupby(owners, sort=True)["difference"]
    differences = groups.mean().to_numpy(dtype=np.float64)
    if unit == "picture" and int(groups.size().max()) == 1:
        test = "exact McNemar test"
        better, worse = int((differences > 0).sum()), int((differences < 0).sum())
        p_value = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    else:
        test = "sign-flip permutation test"
        p_value = sign_flip_p_value(differences, seed)
    low, high = bootstrap_interval(differences, seed)
    return PairedTest(
        first=first,
        second=second,
        test=test,
        unit=unit,
        units=len(differences),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=p_value,
        unpaired=len(sides[0]) + len(sides[1]) - 2 * len(both),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p values, in the order given; none gets smaller."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = highest
    return adjusted


def _natural(name: str) -> list[Any]:
    """A sort key with S2 before S10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name, flags=re.ASCII)]


def accuracy_per_subject(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """Per subject, in natural order: subject, pictures (rows), accuracy; empty where one is unknown."""
    if not _subjects_known(predictions):
        return []
    correct = predictions["truth"].astype(str) == predictions["predicted"].astype(str)
    groups = correct.groupby(predictions["subject"].astype(str))
    sizes, means = groups.size(), groups.mean()
    return [
        {"subject": name, "pictures": int(sizes[name]), "accuracy": float(means[name])}
        for name in sorted(sizes.index, key=_natural)
    ]


def _scores(rows: pd.DataFrame, classes: Sequence[str]) -> tuple[dict[str, float], npt.NDArray[np.int64]]:
    """Every score of SCORES over these rows, and their confusion counts."""
    number = {name: i for i, name in enumerate(classes)}
    truth = rows["truth"].astype(str).map(number).to_numpy(dtype=np.int64)
    predicted = rows["predicted"].astype(str).map(number).to_numpy(dtype=np.int64)
    probabilities = rows[[f"p_{name}" for name in classes]].to_numpy(dtype=np.float64)
    confidence = probabilities[np.arange(len(rows)), predicted]
    counts = confusion(truth, predicted, len(classes))
    scores = {
        "accuracy": accuracy(truth, predicted),
        "balanced_accuracy": balanced_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "negative_log_likelihood": negative_log_likelihood(probabilities, truth),
        "expected_calibration_error": expected_calibration_error(confidence, truth == predicted),
    }
    return scores, counts


def _check_predictions(predictions: pd.DataFrame, classes: Sequence[str]) -> None:
    needed = ["image", "fold", "method", "seed", "truth", "predicted", *(f"p_{name}" for name in classes)]
    missing = [column for column in needed if column not in predictions]
    if missing:
        raise ValueError(f"predictions: expected the column {missing[0]!r}, which is missing")
    if predictions.empty:
        raise ValueError("predictions: expected at least one row with a truth, got none")
    for column in ("truth", "predicted"):
        strange = set(predictions[column].astype(str)) - set(classes)
        if strange:
            raise ValueError(
                f"predictions: {column} '{min(strange)}' is not one of the classes {', '.join(classes)}"
            )


def _plain(value: Any) -> Any:
    """The same value with NaN as None and numpy's scalars as Python's, ready for JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def scores_of_method(rows: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    runs = []
    for _, part in rows.groupby(["fold", "seed"], sort=False):
        scores, _ = _scores(part, classes)
        fold, seed = str(part["fold"].iloc[0]), int(part["seed"].iloc[0])
        runs.append({"fold": fold, "seed": seed, "pictures": len(part), **scores})
    table = pd.DataFrame(runs)
    per_fold = table.groupby("fold", sort=False)[list(SCORES)].mean()
    per_seed = table.groupby("seed", sort=False)[list(SCORES)].mean()
    pooled, counts = _scores(rows, classes)
    probabilities = rows[[f"p_{name}" for name in classes]].to_numpy(dtype=np.float64)
    columns = [list(classes).index(name) for name in rows["predicted"].astype(str)]
    correct = (rows["truth"].astype(str) == rows["predicted"].astype(str)).to_numpy()
    bins = reliability(probabilities[np.arange(len(rows)), columns], correct)
    by_class = zip(
        classes, counts.sum(axis=1), recalls(counts), precisions(counts), f1_scores(counts), strict=True
    )
    found = {
        "folds": len(per_fold),
        "seeds": [int(seed) for seed in per_seed.index],
        "runs": runs,
        "mean": per_fold.mean().to_dict(),
        "std": per_fold.std(ddof=1).to_dict(),
        "std_over_seeds": per_seed.std(ddof=1).to_dict(),
        "pooled": {"pictures": len(rows), **pooled, "confusion": counts.tolist()},
        "per_class": [
            {"class": name, "pictures": int(n), "recall": recall, "precision": precision, "f1": f1}
            for name, n, recall, precision, f1 in by_class
        ],
        "per_subject": accuracy_per_subject(rows),
        "reliability": [asdict(b) for b in bins],
    }
    if "temperature" in rows and rows["temperature"].notna().all():
        found["scaling"] = _scaling(rows, classes, pooled)
    return found


def _scaling(rows: pd.DataFrame, classes: Sequence[str], after: dict[str, float]) -> dict[str, Any]:
    """What temperature scaling did: the temperatures of all trainings, and two scores with and without it, pooled."""
    columns = [f"p_{name}" for name in classes]
    temperatures = rows["temperature"].to_numpy(np.float64)
    plain = rows.copy()
    plain[columns] = unscaled(rows[columns].to_numpy(np.float64), temperatures)
    before, _ = _scores(plain, classes)
    names = ("negative_log_likelihood", "expected_calibration_error")
    return {
        "temperatures": [
            float(part.iloc[0]) for _, part in rows.groupby(["fold", "seed"], sort=False)["temperature"]
        ],
        "before": {name: before[name] for name in names},
        "after": {name: after[name] for name in names},
    }


def summarise(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Every score of every method, ready for JSON (an undefined number is None).

    Per method: `runs` (each fold and seed), `mean` and `std` over folds (the seeds of a fold are averaged
    first; sample standard deviation, None with one fold), `std_over_seeds` (of the mean over folds; None with
    one seed), `pooled` over all rows with the confusion counts, `per_class`, `per_subject` (empty where a
    subject is unknown), `reliability`, and where there is a column `temperature` `scaling`, with log loss and
    calibration error before and after it. `paired_tests` holds every pair of methods, the later minus the
    earlier, with `p_holm` over all pairs. Rows without a truth are counted in `unlabelled` and left out.

    Args:
        predictions: columns image, fold, method, seed, truth, predicted, p_<class>, and subject where known.
        classes: class names in the order of the tables.
    Raises:
        ValueError: If a column is missing, no row has a truth, or a name is not one of the classes.
    """
    labelled = predictions
    if "truth" in predictions:
        known = predictions["truth"].notna() & (predictions["truth"].astype(str) != "")
        labelled = predictions[known]
    _check_predictions(labelled, classes)
    methods = [str(method) for method in pd.unique(labelled["method"])]
    pairs = [(later, earlier) for j, later in enumerate(methods) for earlier in methods[:j]]
    tests = [paired_test(labelled, later, earlier) for later, earlier in pairs]
    adjusted = holm([test.p_value for test in tests])
    return _plain(
        {
            "classes": list(classes),
            "pictures": int(labelled["image"].nunique()),
            "unlabelled": len(predictions) - len(labelled),
            "subjects_known": _subjects_known(labelled),
            "methods": {
                name: scores_of_method(labelled[labelled["method"] == name], classes) for name in methods
            },
            "paired_tests": [{**asdict(test), "p_holm": p} for test, p in zip(tests, adjusted, strict=True)],
        }
    )
