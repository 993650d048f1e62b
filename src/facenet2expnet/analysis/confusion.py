"""Confusion matrices of several models side by side, Figs. 6 to 9 of the paper; from a predictions table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.labels import in_canonical_order
from facenet2expnet.report.figures import confusion_panels

COLUMNS = ("truth", "predicted")


def confusion(
    predictions: pd.DataFrame,
    classes: Sequence[str],
    *,
    methods: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> AnalysisResult:
    """One row-normalised matrix a method, darker is higher, with counts; pooled over folds and seeds.

    Args:
        predictions: columns truth and predicted (class names), and method where there is more than one.
        classes: names in order.
        methods: which, in this order; None for all in the order found.
        names: method -> what a reader sees.
    Raises:
        UserError: If there is no row, a column or a method is missing, or a name is no class.
    Source: FN2EN, Figs. 6 to 9.
    """
    missing = [column for column in COLUMNS if column not in predictions.columns]
    if missing or not len(predictions):
        found = ", ".join(map(str, predictions.columns)) if missing else "no rows"
        raise UserError(
            f"predictions: expected the columns truth and predicted and one row at least, got {found}"
        )
    table = predictions if "method" in predictions else predictions.assign(method="model")
    _check_names(table, classes)
    there = [str(name) for name in pd.unique(table["method"])]
    chosen = list(methods) if methods else there
    absent = [name for name in chosen if name not in there]
    if absent:
        raise UserError(f"predictions have no method '{absent[0]}'; they have {', '.join(there)}")
    matrices = {name: counts_of(table[table["method"].astype(str) == name], classes) for name in chosen}
    shown = {(names or {}).get(name, name): counts for name, counts in matrices.items()}
    rows = []
    for name, counts in matrices.items():
        totals = counts.sum(axis=1)
        for truth, predicted in np.ndindex(*counts.shape):
            share = counts[truth, predicted] / totals[truth] if totals[truth] else float("nan")
            rows.append((name, classes[truth], classes[predicted], int(counts[truth, predicted]), share))
    data = pd.DataFrame(rows, columns=["method", "truth", "predicted", "count", "share"])
    summary = pd.DataFrame(
        [(name, int(c.sum()), c.trace() / c.sum(), *_worst(c, classes)) for name, c in matrices.items()],
        columns=["method", "pictures", "accuracy", "commonest_mistake", "mistakes", "share_of_truth"],
    )
    empty = [name for number, name in enumerate(classes) if not next(iter(matrices.values()))[number].sum()]
    says = "Rows are the truth, each row sums to 100 %; the small numbers are pictures, over all folds and seeds."
    if empty:
        says += f" No picture is {', '.join(empty)}: the row is hatched."
    return AnalysisResult(
        "confusion", "What is taken for what", says, summary, confusion_panels(shown, classes), data
    )


def read_predictions(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A predictions table and its classes, in the order of the probabilities' columns.

    Args:
        path: a run folder, or a table (.parquet, .csv, .json) that `fn2en evaluate` wrote.
    Raises:
        UserError: If there is none, or it can't be read.
    """
    path = Path(path)
    file = path / "predictions.parquet" if path.is_dir() else path
    if not file.is_file():
        what = "no predictions.parquet; give a run that tested something" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}, or a table that `fn2en evaluate --out` wrote")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        ".csv": pd.read_csv,
        ".json": pd.read_json,
    }
    if file.suffix.lower() not in readers:
        raise UserError(f"{file}: expected a table that ends in .parquet, .csv or .json")
    try:
        table = readers[file.suffix.lower()](file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read as a table ({str(error).splitlines()[0]})") from None
    classes = tuple(str(column)[2:] for column in table.columns if str(column).startswith("p_"))
    if not classes and {"truth", "predicted"} <= set(table.columns):
        classes = in_canonical_order({*map(str, table["truth"]), *map(str, table["predicted"])})
    return table, classes


def counts_of(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """(K, K) counts, rows truth, columns predicted."""
    numbers = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (rows["truth"].map(numbers).to_numpy(), rows["predicted"].map(numbers).to_numpy()), 1)
    return counts


def _check_names(table: pd.DataFrame, classes: Sequence[str]) -> None:
    for column in COLUMNS:
        unlabelled = table[column].isna() | (table[column].astype(str) == "")
        if unlabelled.any():
            raise UserError(
                f"predictions: {int(unlabelled.sum())} of {len(table)} rows have no {column}, expected a class name: "
                "a confusion matrix needs labelled pictures"
            )
        unknown = sorted(set(map(str, table[column])) - set(classes))
        if unknown:
            raise UserError(f"predictions: {column} '{unknown[0]}' is not one of {', '.join(classes)}")


def _worst(counts: np.ndarray, classes: Sequence[str]) -> tuple[str, int, float]:
    """The mistake that takes the largest share of its truth's pictures: its name, count and share."""
    off = counts * ~np.eye(len(counts), dtype=bool)
    if not off.any():
        return "", 0, 0.0
    shares = off / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    truth, predicted = np.unravel_index(shares.argmax(), shares.shape)
    name = f"{classes[truth]} taken for {classes[predicted]}"
    return name, int(counts[truth, predicted]), float(shares[truth, predicted])
