"""Confusion matrices of several methods side by side, from a predictions table: Figs. 6 to 9 of the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.analysis.result import AnalysisResult
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import metrics
from facenet2expnet.report.figures import confusion_panels
from facenet2expnet.report.tables import display_name


def confusion(predictions: pd.DataFrame) -> AnalysisResult:
    """One matrix a method with counts, each row a share of its truth; pooled over folds and seeds.

    Args:
        predictions: columns truth, predicted and p_CLASS, one for each class in order; and method if there are several.
    Raises:
        UserError: If there is no row, a column is missing, or a name is not a class.
    Source: FN2EN, Figs. 6 to 9.
    """
    classes = [str(column)[2:] for column in predictions.columns if str(column).startswith("p_")]
    if not {"truth", "predicted"} < set(predictions.columns) or not classes or not len(predictions):
        found = f"{len(predictions)} rows of {', '.join(map(str, predictions.columns))}"
        raise UserError(f"predictions: expected rows of truth, predicted and p_CLASS, got {found}")
    named = predictions[["truth", "predicted"]].fillna("").astype(str)
    if wrong := sorted({*named["truth"], *named["predicted"]} - set(classes)):
        raise UserError(f"predictions: '{wrong[0]}' is not one of {', '.join(classes)}; each image needs a label")
    method = predictions["method"] if "method" in predictions else pd.Series("model", predictions.index)
    matrices, rows, scores = {}, [], []
    for name, part in named.groupby(method, sort=False):
        counts = metrics.confusion(part["truth"], part["predicted"], classes)
        totals = counts.sum(axis=1, keepdims=True)
        shares = counts / np.where(totals, totals, np.nan)
        rows += [(name, classes[t], classes[p], counts[t, p], share) for (t, p), share in np.ndenumerate(shares)]
        mistakes = np.nan_to_num(shares) * ~np.eye(len(classes), dtype=bool)
        t, p = np.unravel_index(mistakes.argmax(), mistakes.shape)
        mistake = (f"{classes[t]} taken for {classes[p]}", counts[t, p]) if mistakes.any() else ("", 0)
        scores.append((name, len(part), counts.trace() / len(part), *mistake, mistakes[t, p]))
        matrices[display_name(name)] = counts
    columns = ["method", "pictures", "accuracy", "commonest_mistake", "mistakes", "share_of_truth"]
    summary = "Rows are the truth, each row sums to 100 %. The small numbers are images, over all folds and seeds."
    if empty := [name for name in classes if name not in set(named["truth"])]:
        summary += f" No image is {', '.join(empty)}: the row is hatched."
    return AnalysisResult(
        "confusion",
        "Confusion matrices",
        summary,
        pd.DataFrame(scores, columns=columns),
        confusion_panels(matrices, classes),
        pd.DataFrame(rows, columns=["method", "truth", "predicted", "count", "share"]),
    )


def read_predictions(path: Path) -> pd.DataFrame:
    """Read the predictions of a run folder, or a table (.parquet or .csv) that `fn2en evaluate` wrote.

    Raises:
        UserError: If it is missing or can't be read.
    """
    file = path / "predictions.parquet" if path.is_dir() else path
    try:
        return pd.read_csv(file) if file.suffix.lower() == ".csv" else pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} can't be read as a table ({str(error).splitlines()[0]}); expected a run that tested something, or "
            "a .parquet or .csv table that `fn2en evaluate --out` wrote"
        ) from None
