"""Tables of a run: as numbers, and as text for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from facenet2expnet.experiment.published import paper_accuracies
from facenet2expnet.predict.sources import readable

NONE = "–"
"""Shown where a number is missing."""

NAMES: Mapping[str, str] = {
    "scratch": "From scratch (BN)",
    "fine-tune": "Fine-tuned face net",
    "fn2en": "FN2EN",
}
"""Display names of our three methods; any other method is shown by its own name."""


def display_name(method: object) -> str:
    """The name of a method in tables and figures."""
    return NAMES.get(str(method), readable(method))


def is_number(value: object) -> bool:
    """Whether this is a finite number: not None, not NaN, not text."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def percent(share: object, digits: int = 1) -> str:
    """0.4817 -> 48.2; a dash if there is no number."""
    return f"{float(share) * 100:.{digits}f}" if is_number(share) else NONE  # type: ignore[arg-type]


def percent_std(share: object, std: object) -> str:
    """0.4817, 0.0123 -> 48.2 ± 1.2; only the first if there is no standard deviation."""
    return f"{percent(share)} ± {percent(std)}" if is_number(std) else percent(share)


def number(value: object, digits: int = 3) -> str:
    """A number with this many decimals, or a dash."""
    return f"{float(value):,.{digits}f}" if is_number(value) else NONE  # type: ignore[arg-type]


def p_text(p_value: object) -> str:
    """A p value with three decimals, "< 0.001", or a dash."""
    return "< 0.001" if is_number(p_value) and p_value < 0.001 else number(p_value)  # type: ignore[operator]


def points(difference: object) -> str:
    """A difference of two accuracies in percentage points, with its sign: 0.0123 -> +1.2."""
    return f"{difference * 100:+.1f}" if is_number(difference) else NONE  # type: ignore[operator]


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Any table as text: four digits, thousands with a comma, a dash for a missing value."""

    def cell(value: object) -> str:
        if isinstance(value, list):
            return ", ".join(map(cell, value))
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return NONE
        if isinstance(value, Real) and not isinstance(value, bool):
            return f"{value:,}" if isinstance(value, Integral) else f"{value:.4g}"
        return readable(value)

    columns = {str(name).replace("_", " "): map(cell, table[name]) for name in table.columns}
    return pd.DataFrame({name: list(cells) for name, cells in columns.items()}, dtype=object)


def std_of(method: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The standard deviations of a method's scores and what they are over: folds, else seeds, else "" and none."""
    for over, key in (("folds", "std"), ("seeds", "std_over_seeds")):
        if is_number(method[key].get("accuracy")):
            return over, method[key]
    return "", {}


def comparison_text(
    metrics: Mapping[str, Any], dataset: str = "", sizes: Sequence[Mapping[str, Any]] = ()
) -> pd.DataFrame:
    """The comparison table as text, one row per method; columns without any number are left out.

    Scores are means over folds. The calibration error is computed on all test pictures together: on the few pictures
    of one fold it would be too high.

    Args:
        metrics: result of `summarise`.
        dataset: name of the manifest; if the paper tests on it, a column shows the paper's accuracies.
        sizes: rows of sizes.json: method, parameters, ms_per_picture.
    """
    methods = metrics["methods"]
    paper = paper_accuracies(dataset, len(metrics["classes"]))
    size = {size["method"]: size for size in sizes}
    over = next((over for over, _ in map(std_of, methods.values()) if over), "")
    rows = []
    for name, method in methods.items():
        mean, weights = method["mean"], size.get(name, {}).get("parameters")
        row = {
            "method": display_name(name),
            "accuracy, %" + (f" (± over {over})" if over else ""): percent_std(
                mean["accuracy"], std_of(method)[1].get("accuracy")
            ),
            "paper, %": percent(paper.get(name), 2).removesuffix("0"),
            "balanced accuracy, %": percent(mean["balanced_accuracy"]),
            "macro F1, %": percent(mean["macro_f1"]),
            "log loss": number(mean["negative_log_likelihood"]),
            "calibration error, %": percent(method["pooled"]["expected_calibration_error"]),
            "weights, M": number(weights / 1e6, 2) if weights else NONE,
            "ms per picture": number(size.get(name, {}).get("ms_per_picture"), 1),
        }
        rows.append(row)
    return without_empty(pd.DataFrame(rows))


def without_empty(text: pd.DataFrame) -> pd.DataFrame:
    """A table of text without the columns that hold only dashes."""
    return text[[column for column in text if (text[column] != NONE).any()]]


def units_text(units: int, unit: str) -> str:
    """The number of units of a paired test with their name: 12 subjects."""
    return f"{units:,} {unit.replace('subject or', 'subjects or')}s"


def paired_text(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The paired tests as text, one row per pair of methods; a dash where a test has no p value."""
    tests = metrics["paired_tests"]
    columns = {
        "comparison": [f"{display_name(t['first'])} minus {display_name(t['second'])}" for t in tests],
        "difference, points": [points(t["difference"]) for t in tests],
        "95 % interval": [f"{points(t['low'])} to {points(t['high'])}" if is_number(t["low"]) else NONE for t in tests],
        "p": [p_text(t["p_value"]) for t in tests],
        "p (Holm)": [p_text(t["p_holm"]) for t in tests],
        "units": [units_text(t["units"], t["unit"]) for t in tests],
        "trainings": [number(t["trainings"], 0) for t in tests],
    }
    return pd.DataFrame(columns)


def scaling_text(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Lowest and highest temperature, and scores before and after scaling, as text; empty if nothing was scaled."""
    rows = [
        {"method": display_name(name), **s, "temperatures": [min(s["temperatures"]), max(s["temperatures"])]}
        for name, method in metrics["methods"].items()
        if (s := method.get("scaling"))
    ]
    return as_text(pd.json_normalize(rows, sep=": "))


def per_class_text(method: Mapping[str, Any]) -> pd.DataFrame:
    """Pictures, and recall, precision and F1 in percent, of each class of a method of metrics.json, as text."""
    rows = [(row["class"], row["pictures"], row["recall"], row["precision"], row["f1"]) for row in method["per_class"]]
    table = pd.DataFrame(rows, columns=["class", "pictures", "recall, %", "precision, %", "F1, %"])
    return table.assign(**table.iloc[:, 2:].map(percent))


def per_subject(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Columns subject, pictures, then the accuracy of every method; empty if subjects are unknown."""
    table = _accuracies(metrics, "per_subject", ["subject", "pictures"])
    table["pictures"] //= len(next(iter(metrics["methods"].values()))["seeds"])
    return table


def per_fold(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Columns fold, seed, pictures, then the accuracy of every method."""
    return _accuracies(metrics, "runs", ["fold", "seed", "pictures"])


def _accuracies(metrics: Mapping[str, Any], key: str, by: list[str]) -> pd.DataFrame:
    """The accuracies of a table of metrics.json, one column per method."""
    methods = metrics["methods"].items()
    parts = [pd.DataFrame(m[key], columns=[*by, "accuracy"]).set_index(by)["accuracy"] for _, m in methods]
    return pd.concat(parts, axis=1, keys=[name for name, _ in methods]).reset_index()


def to_rich(table: pd.DataFrame) -> Table:
    """A table of text for the terminal; names are never read as Rich's markup."""
    out = Table()
    for place, column in enumerate(table.columns):
        out.add_column(Text(str(column)), justify="left" if place == 0 else "right")
    for row in table.itertuples(index=False):
        out.add_row(*(Text(readable(cell)) for cell in row))
    return out
