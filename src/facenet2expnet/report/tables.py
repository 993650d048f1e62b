"""The tables of a run: as data frames, as Markdown, and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from facenet2expnet.experiment.published import paper_accuracies
from facenet2expnet.report.figures import readable

NONE = "–"
"""Stands where there is no number."""

NAMES: Mapping[str, str] = {
    "scratch": "From scratch (BN)",
    "fine-tune": "Fine-tuned face net",
    "fn2en": "FN2EN",
}
"""Our three methods as a reader meets them; any other method is shown by its own name."""


def shown(method: object) -> str:
    """A method's name for a reader."""
    return NAMES.get(str(method), readable(method))


def is_number(value: object) -> bool:
    """Whether this is a finite number: not None, not NaN, not text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(share: object, digits: int = 1) -> str:
    """0.4817 -> 48.2; no number -> a dash."""
    return f"{float(share) * 100:.{digits}f}" if is_number(share) else NONE  # type: ignore[arg-type]


def percent_spread(share: object, spread: object) -> str:
    """0.4817, 0.0123 -> 48.2 ± 1.2; without a spread only the number."""
    return f"{percent(share)} ± {percent(spread)}" if is_number(spread) else percent(share)


def number(value: object, digits: int = 3) -> str:
    """A plain number with so many digits after the point, or a dash."""
    return f"{float(value):,.{digits}f}" if is_number(value) else NONE  # type: ignore[arg-type]


def p_text(p_value: object) -> str:
    """A p value as papers print it: three digits, or < 0.001."""
    if not is_number(p_value):
        return NONE
    return "< 0.001" if float(p_value) < 0.001 else f"{float(p_value):.3f}"  # type: ignore[arg-type]


def spread_of(method: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What the ± of a method goes over, folds or else seeds, and its numbers; "" with one run only."""
    if is_number(method["std"].get("accuracy")):
        return "folds", method["std"]
    if is_number(method["std_over_seeds"].get("accuracy")):
        return "seeds", method["std_over_seeds"]
    return "", {}


def comparison(
    metrics: Mapping[str, Any], dataset: str = "", sizes: Sequence[Mapping[str, Any]] = ()
) -> pd.DataFrame:
    """The comparison table as numbers, one row a method.

    Scores are means over folds, but the calibration error is of all test pictures together: over the few pictures
    of one fold it comes out too high.

    Args:
        metrics: what `summarise` gave.
        dataset: the manifest's name; where the paper tests on it, its accuracies stand in the column `paper`.
        sizes: method, parameters, megabytes, ms_per_picture.
    Returns:
        Columns method, accuracy, spread, spread_over, balanced_accuracy, macro_f1, negative_log_likelihood,
        expected_calibration_error, paper, parameters, megabytes, ms_per_picture; NaN where unknown.
    """
    paper = paper_accuracies(dataset, len(metrics["classes"]))
    by_method = {str(size.get("method")): size for size in sizes}
    rows = []
    for name, method in metrics["methods"].items():
        over, spread = spread_of(method)
        mean, size = method["mean"], by_method.get(name, {})
        scores = ("balanced_accuracy", "macro_f1", "negative_log_likelihood")
        rows.append(
            {
                "method": name,
                "accuracy": mean["accuracy"],
                "spread": spread.get("accuracy"),
                "spread_over": over,
                **{score: mean[score] for score in scores},
                "expected_calibration_error": method["pooled"]["expected_calibration_error"],
                "paper": paper.get(name),
                **{key: size.get(key) for key in ("parameters", "megabytes", "ms_per_picture")},
            }
        )
    table = pd.DataFrame(rows)
    numeric = [column for column in table if column not in ("method", "spread_over")]
    return table.astype(dict.fromkeys(numeric, float))


def comparison_text(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison table as text to print; columns without any number are left out."""
    over = next((o for o in table["spread_over"] if o), "")
    columns = {
        "method": [shown(name) for name in table["method"]],
        "accuracy, %" + (f" (± over {over})" if over else ""): [
            percent_spread(a, s) for a, s in zip(table["accuracy"], table["spread"], strict=True)
        ],
        "paper, %": [percent(value, 2).removesuffix("0") for value in table["paper"]],
        "balanced, %": [percent(value) for value in table["balanced_accuracy"]],
        "macro F1, %": [percent(value) for value in table["macro_f1"]],
        "log loss": [number(value) for value in table["negative_log_likelihood"]],
        "calibration error, %": [percent(value) for value in table["expected_calibration_error"]],
        "weights, M": [number(value / 1e6, 2) for value in table["parameters"]],
        "ms a picture": [number(value, 1) for value in table["ms_per_picture"]],
    }
    text = pd.DataFrame(columns)
    return text[[column for column in text if (text[column] != NONE).any() or column == "method"]]


def units_text(units: int, unit: str) -> str:
    """How many of what a paired test was over: 12 subjects."""
    return f"{units:,} {unit.replace('subject or', 'subjects or')}s"


def paired_text(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The paired tests as text, one row a pair of methods."""
    rows = []
    for test in metrics["paired_tests"]:
        low, high = test["low"], test["high"]
        interval = f"{low * 100:+.1f} to {high * 100:+.1f}" if is_number(low) and is_number(high) else NONE
        rows.append(
            {
                "comparison": f"{shown(test['first'])} minus {shown(test['second'])}",
                "difference, points": f"{test['difference'] * 100:+.1f}",
                "95 % interval": interval,
                "p": p_text(test["p_value"]),
                "p (Holm)": p_text(test["p_holm"]),
                "units": units_text(test["units"], test["unit"]),
            }
        )
    return pd.DataFrame(rows)


def scaling_text(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """What temperature scaling did, as text, one row a method; empty where nothing was scaled."""
    rows = []
    for name, method in metrics["methods"].items():
        if scaling := method.get("scaling"):
            low, high = (number(end(scaling["temperatures"]), 2) for end in (min, max))
            before, after = scaling["before"], scaling["after"]
            rows.append(
                {
                    "method": shown(name),
                    "temperature": low if low == high else f"{low} to {high}",
                    "log loss before": number(before["negative_log_likelihood"]),
                    "after": number(after["negative_log_likelihood"]),
                    "calibration error before, %": percent(before["expected_calibration_error"]),
                    "after, %": percent(after["expected_calibration_error"]),
                }
            )
    return pd.DataFrame(rows)


def per_class(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Columns class, pictures, then `<method> recall`, `<method> precision` and `<method> f1` of all methods."""
    methods = metrics["methods"]
    first = next(iter(methods.values()))["per_class"]
    seeds = {name: len(method["seeds"]) for name, method in methods.items()}
    table = pd.DataFrame({"class": [row["class"] for row in first]})
    table["pictures"] = [row["pictures"] // next(iter(seeds.values())) for row in first]
    for score in ("recall", "precision", "f1"):
        for name, method in methods.items():
            table[f"{name} {score}"] = [row[score] for row in method["per_class"]]
    return table


def per_subject(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Columns subject, pictures, then the accuracy of every method; empty where subjects are unknown."""
    methods = metrics["methods"]
    rows: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        for row in method["per_subject"]:
            start = {"subject": row["subject"], "pictures": row["pictures"] // len(method["seeds"])}
            rows.setdefault(row["subject"], start)[name] = row["accuracy"]
    return pd.DataFrame(list(rows.values()), columns=["subject", "pictures", *methods])


def per_fold(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Columns fold, seed, pictures, then the accuracy of every method."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for name, method in metrics["methods"].items():
        for run in method["runs"]:
            key = (run["fold"], run["seed"])
            start = {"fold": run["fold"], "seed": run["seed"], "pictures": run["pictures"]}
            rows.setdefault(key, start)[name] = run["accuracy"]
    return pd.DataFrame(list(rows.values()), columns=["fold", "seed", "pictures", *metrics["methods"]])


def to_markdown(table: pd.DataFrame) -> str:
    """A table of text as Markdown; the first column to the left, the others to the right."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(readable(cell).replace("|", "\\|") for cell in cells) + " |"

    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    return "\n".join(
        [line(list(table.columns)), line(rule), *(line(row) for row in table.itertuples(index=False))]
    )


def to_rich(table: pd.DataFrame, title: str = "") -> Table:
    """A table of text for the terminal; names are shown as they are, never read as Rich's markup."""
    out = Table(title=Text(title) if title else None, title_justify="left")
    for place, column in enumerate(table.columns):
        out.add_column(Text(str(column)), justify="left" if place == 0 else "right")
    for row in table.itertuples(index=False):
        out.add_row(*(Text(readable(cell)) for cell in row))
    return out


def comparison_markdown(
    metrics: Mapping[str, Any], dataset: str = "", sizes: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The comparison table as Markdown."""
    return to_markdown(comparison_text(comparison(metrics, dataset, sizes)))


def comparison_rich(
    metrics: Mapping[str, Any], dataset: str = "", sizes: Sequence[Mapping[str, Any]] = ()
) -> Table:
    """The comparison table for the terminal."""
    return to_rich(comparison_text(comparison(metrics, dataset, sizes)))
