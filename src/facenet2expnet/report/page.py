"""The report: one self-contained page from a run folder."""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from facenet2expnet.experiment import published
from facenet2expnet.files import write_atomic
from facenet2expnet.report import figures, tables
from facenet2expnet.report.analyses import read_analyses
from facenet2expnet.report.figures import readable
from facenet2expnet.report.fonts import font_faces
from facenet2expnet.report.mistakes import surest_mistakes, thumbnail
from facenet2expnet.report.run_folder import RunFolder, read_run
from facenet2expnet.report.tables import NONE, number, percent, shown

METHODS: Mapping[str, str] = {
    "scratch": "The expression network with batch normalisation, trained from random weights on the labels alone.",
    "fine-tune": "The face recognition network itself with a new output layer, trained on the labels.",
    "fn2en": "FaceNet2ExpNet. Stage 0 fine-tunes the face network on the training part. Stage 1 freezes it and trains "
    "the convolutions of the expression network to give the same features. Stage 2 adds the fully connected layers "
    "and trains the whole expression network on the labels.",
}

IN_A_SENTENCE: Mapping[str, str] = {
    "scratch": "training from scratch",
    "fine-tune": "the fine-tuned face net",
}

SKIPPED_SHOWN = 50
AUDIT_SHOWN = 25
AUDIT_TABLES = {
    "leaks": "Tested pictures with a twin in the training part",
    "torn": "Subjects and sequences on two sides of a fold",
    "exact": "Identical pictures",
    "near": "Nearly identical pictures",
    "persons": "Pairs of subjects that look like one person",
    "labels": "Doubtful labels",
}
NO_BREAK = "\N{NO-BREAK SPACE}"
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def write_report(run: Path) -> Path:
    """Write report.html into a run folder and return its path.

    The page needs nothing but itself: styles, figures and pictures are inside. It is written from whatever the
    folder holds; only run.json must be there. Pictures that are gone from the disk are named without a thumbnail.

    Raises:
        UserError: If the folder is no run's, or the page can't be written.
    """
    folder = read_run(run)
    environment = Environment(
        loader=PackageLoader("facenet2expnet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(readable=readable, shown=shown, percent=percent, number=number)
    template, context = environment.get_template("report.html.j2"), _context(folder)
    letters = template.render(context, font_faces="")
    page = template.render(context, font_faces=Markup(font_faces(letters)))
    out = Path(run) / "report.html"
    write_atomic(out, page.encode("utf-8", "replace"))
    return out


def inline_svg(figure: Figure, key: str, label: str) -> Markup:
    """A figure as an <svg> element to stand in a page: named for screen readers, its ids made its own by `key`."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(figures.to_svg(figure, as_text=True))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{key}-{value}")
            elif name in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
                element.set(name, f"#{key}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{key}-"))
    width = root.attrib.pop("width", "600pt")
    root.attrib.pop("height", None)
    root.attrib.update({"role": "img", "aria-label": label, "style": f"max-width: {width}"})
    return Markup(ET.tostring(root, encoding="unicode"))


def _context(run: RunFolder) -> dict[str, Any]:
    """Everything the template shows."""
    about, metrics = run.about, run.metrics
    manifest = about.get("manifest") or {}
    name = readable(manifest.get("name") or "data")
    command = about.get("command") or ""
    context: dict[str, Any] = {
        "title": f"{'Comparison' if about.get('kind') == 'compare' else 'Training'} on {name}",
        "name": name,
        "facts": _facts(run),
        "created": _moment(about.get("created")),
        "command": shlex.join(map(str, command)) if isinstance(command, list | tuple) else str(command),
        "versions": _pairs(about.get("versions")),
        "machine": _pairs({k: about[k] for k in ("device", "threads") if about.get(k) is not None}),
        "recipe": run.recipe,
        "protocol": about.get("protocol") or {},
        "methods": _method_words(run),
        "class_counts": _class_counts(run),
        "unread": run.unread,
        "skipped": run.skipped[:SKIPPED_SHOWN],
        "skipped_total": max(len(run.skipped), _whole(manifest.get("skipped"))),
        "skipped_more": max(0, len(run.skipped) - SKIPPED_SHOWN),
        "audit": _audit(run.audit),
        "curves": _curves(run),
        "sizes": _sizes(run),
        "paper_size": published,
        "metrics": metrics,
        "analyses": read_analyses(run.path, run.unread),
    }
    if metrics is not None:
        context.update(_results(run, metrics, str(manifest.get("name") or "")))
    return context


def _results(run: RunFolder, metrics: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The part of the context that needs predictions."""
    methods = list(metrics["methods"])
    main = _main_method(run, methods)
    comparison = tables.comparison(metrics, dataset, run.sizes)
    known = published.published(dataset, len(metrics["classes"]))
    over = next((o for o in comparison["spread_over"] if o), "")
    best = comparison["accuracy"].max()
    return {
        "main": main,
        "headline": _headline(metrics, main),
        "chance": _largest_share(metrics, main),
        "comparison": _grid(tables.comparison_text(comparison)),
        "best": [bool(value == best) and len(comparison) > 1 for value in comparison["accuracy"]],
        "spread_over": over,
        "seeds": metrics["methods"][main]["seeds"],
        "folds": metrics["methods"][main]["folds"],
        "folds_figure": _folds_figure(metrics, dataset, main),
        "per_fold": _grid(_as_percent(tables.per_fold(metrics), methods)),
        "paper_rows": known,
        "paper_elsewhere": [] if known else [row for row in published.ROWS if row.ours],
        "comparable": published.comparable,
        "tests": _grid(tables.paired_text(metrics)),
        "test_names": " or ".join(sorted({test["test"] for test in metrics["paired_tests"]})),
        "test_units": " ".join(test["unit"] for test in metrics["paired_tests"]),
        "unpaired": sum(test["unpaired"] for test in metrics["paired_tests"]),
        "confusions": _confusions(metrics),
        "per_class": _per_class(metrics),
        "subjects": _subjects(metrics),
        "mistakes": _mistakes(run, metrics, main),
        "calibration": _calibration(metrics),
    }


def _main_method(run: RunFolder, methods: Sequence[str]) -> str:
    """The method that the page is about: what `train` trained, else FN2EN, else the last one."""
    asked = run.about.get("methods") or []
    if len(asked) == 1 and asked[0] in methods:
        return str(asked[0])
    return "fn2en" if "fn2en" in methods else methods[-1]


def _whole(value: Any) -> int:
    """A count that may be written as a number or as the list of what is counted."""
    if isinstance(value, int):
        return value
    return len(value) if isinstance(value, list | dict | tuple) else 0


def _moment(value: Any) -> str:
    """An ISO time to the minute, in UTC where it says its offset."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return readable(value or "")
    if moment.tzinfo is None:
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _pairs(values: Any) -> list[tuple[str, str]]:
    return [(str(k), readable(v)) for k, v in values.items()] if isinstance(values, dict) else []


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """What the page's head says about data and run, as name and value."""
    manifest, protocol = run.about.get("manifest") or {}, run.about.get("protocol") or {}
    metrics = run.metrics
    facts = [("Data", readable(manifest.get("name") or "data"))]
    if manifest.get("pictures") is not None:
        facts.append(("Pictures", f"{_whole(manifest['pictures']):,}"))
    facts.append(("Classes", f"{len(run.classes)}"))
    subjects = _whole(manifest.get("subjects"))
    facts.append(("Subjects", f"{subjects:,}" if subjects else "unknown"))
    if protocol.get("name"):
        facts.append(("Protocol", readable(protocol["name"])))
    folds = max((m["folds"] for m in metrics["methods"].values()), default=0) if metrics else 0
    if folds or protocol.get("folds"):
        facts.append(("Folds", f"{folds or _whole(protocol.get('folds'))}"))
    if metrics:
        seeds = sorted({seed for m in metrics["methods"].values() for seed in m["seeds"]})
        facts.append(("Seeds" if len(seeds) > 1 else "Seed", ", ".join(map(str, seeds))))
    seconds = run.about.get("seconds")
    if tables.is_number(seconds):
        facts.append(("Time", _duration(float(seconds))))  # type: ignore[arg-type]
    if run.about.get("device"):
        facts.append(("Device", readable(run.about["device"])))
    return facts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _method_words(run: RunFolder) -> list[tuple[str, str]]:
    names = list(run.metrics["methods"]) if run.metrics else run.about.get("methods") or []
    return [(shown(name), METHODS.get(str(name), "")) for name in names]


def _class_counts(run: RunFolder) -> list[dict[str, Any]]:
    """Class, pictures and share of the largest class (the bar's length); empty where run.json has no counts."""
    counts = (run.about.get("manifest") or {}).get("counts")
    if isinstance(counts, list):
        counts = dict(zip(run.classes, counts, strict=False))
    if not isinstance(counts, dict) or not counts:
        return []
    most = max(1, *(_whole(value) for value in counts.values()))
    return [{"name": k, "pictures": _whole(v), "bar": 100 * _whole(v) / most} for k, v in counts.items()]


def _grid(table: pd.DataFrame) -> dict[str, Any]:
    """A data frame as plain columns and rows for the template; columns of words are named to stand to the left."""
    return _aligned([str(column) for column in table.columns], table.astype(str).to_numpy().tolist())


def _aligned(columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    looks_numeric = re.compile(r"[-+<]? ?[0-9]|–")
    words = [any(row[i] and not looks_numeric.match(row[i]) for row in rows) for i in range(len(columns))]
    return {"columns": columns, "rows": rows, "words": words}


def _as_percent(table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The same table with the methods' columns as text in percent, under the names a reader knows."""
    out = table.copy()
    for name in methods:
        out[name] = [percent(value) for value in table[name]]
    if "seed" in out and out["seed"].nunique() <= 1:
        out = out.drop(columns="seed")
    return out.rename(columns={name: f"{shown(name)}, %" for name in methods})


def _largest_share(metrics: Mapping[str, Any], main: str) -> float:
    """What always naming the largest class of the test pictures would reach, 0..1."""
    totals = np.asarray(metrics["methods"][main]["pooled"]["confusion"]).sum(axis=1)
    return float(totals.max() / totals.sum())


def _headline(metrics: Mapping[str, Any], main: str) -> list[str]:
    """The result in two or three plain sentences."""
    method = metrics["methods"][main]
    over, spread = tables.spread_of(method)
    how = f" (mean over {method['folds']} folds" if method["folds"] > 1 else ""
    if over:
        width = f"standard deviation {percent(spread['accuracy'])} over {over}"
        how = f"{how}, {width}" if how else f" ({width}"
    how += ")" if how else ""
    sentences = [
        f"{shown(main)} named {percent(method['mean']['accuracy'])} % of the test pictures rightly{how}."
    ]
    for name, other in metrics["methods"].items():
        if name == main:
            continue
        points = (method["mean"]["accuracy"] - other["mean"]["accuracy"]) * 100
        more = "more" if points >= 0 else "fewer"
        test = next((t for t in metrics["paired_tests"] if {t["first"], t["second"]} == {main, name}), None)
        p = _p_words(test["p_holm"]) if test else ""
        sentences.append(
            f"That is {abs(points):.1f} points {more} than {IN_A_SENTENCE.get(name, shown(name))}{p}."
        )
    sentences.append(
        f"Always naming the largest class would reach {percent(_largest_share(metrics, main))} %."
    )
    return sentences


def _p_words(p_value: object) -> str:
    """A corrected p value within a sentence, kept on one line."""
    text = tables.p_text(p_value)
    relation = text if text.startswith("<") else f"= {text}"
    return f" (paired test, corrected {f'p {relation}'.replace(' ', NO_BREAK)})"


def _folds_figure(metrics: Mapping[str, Any], dataset: str, main: str) -> Markup:
    by_fold = {
        name: pd.DataFrame(m["runs"]).groupby("fold", sort=False)["accuracy"].mean().tolist()
        for name, m in metrics["methods"].items()
    }
    paper = published.paper_accuracies(dataset, len(metrics["classes"]))
    figure = figures.folds_figure(by_fold, paper, _largest_share(metrics, main), names=tables.NAMES)
    words = "; ".join(f"{shown(name)} {percent(np.mean(v))} %" for name, v in by_fold.items())
    return inline_svg(figure, "folds", f"Accuracy of every fold and its mean: {words}.")


def _curves(run: RunFolder) -> Markup | None:
    if run.history is None or run.history.empty:
        return None
    try:
        figure = figures.curves_figure(run.history, names=tables.NAMES)
    except ValueError:
        return None
    stages = ", ".join(
        figures.STAGES.get(str(stage), str(stage)) for stage in pd.unique(run.history["stage"])
    )
    return inline_svg(figure, "curves", f"Learning curves of the stages {stages}, one line a method.")


def _confusions(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    out = []
    classes = metrics["classes"]
    for place, (name, method) in enumerate(metrics["methods"].items()):
        counts = np.asarray(method["pooled"]["confusion"])
        figure = figures.confusion_figure(counts, classes, shown(name))
        label = f"Confusion matrix of {shown(name)}; the same counts stand in the table below it."
        out.append(
            {
                "name": shown(name),
                "svg": inline_svg(figure, f"confusion{place}", label),
                "counts": counts.tolist(),
            }
        )
    return out


def _per_class(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry a class: name, pictures, and for every method recall, precision and F1."""
    table = tables.per_class(metrics)
    return [
        {
            "name": row["class"],
            "pictures": row["pictures"],
            "cells": [
                (row[f"{m} recall"], row[f"{m} precision"], row[f"{m} f1"]) for m in metrics["methods"]
            ],
        }
        for row in table.to_dict("records")
    ]


def _subjects(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    table = tables.per_subject(metrics)
    if table.empty:
        return None
    methods = list(metrics["methods"])
    accuracy = {name: dict(zip(table["subject"], table[name].astype(float), strict=True)) for name in methods}
    figure = figures.subjects_figure(accuracy, names=tables.NAMES)
    label = f"Accuracy of {len(table)} subjects under every method; the numbers stand in the table below it."
    spread = [
        (shown(m), percent(table[m].min()), percent(table[m].median()), percent(table[m].max()))
        for m in methods
    ]
    return {
        "svg": inline_svg(figure, "subjects", label),
        "table": _grid(_as_percent(table, methods)),
        "spread": spread,
    }


def _mistakes(run: RunFolder, metrics: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    """Per method, the main one first, its surest mistakes with thumbnails."""
    if run.predictions is None:
        return []
    out = []
    for name in sorted(metrics["methods"], key=lambda method: method != main):
        table = surest_mistakes(run.predictions, name, 18 if name == main else 6)
        cards = []
        for row in table.to_dict("records"):
            path = None if run.root is None else run.root / str(row["image"])
            uri, reason = (None, "folder of the pictures unknown") if path is None else thumbnail(path)
            cards.append({**{str(k): v for k, v in row.items()}, "uri": uri, "reason": reason})
        out.append({"name": shown(name), "main": name == main, "cards": cards})
    return out


def _calibration(metrics: Mapping[str, Any]) -> dict[str, Any]:
    bins = {name: m["reliability"] for name, m in metrics["methods"].items()}
    words = []
    for name, m in metrics["methods"].items():
        words.append((shown(name), percent(m["pooled"]["expected_calibration_error"])))
    label = (
        "Accuracy against confidence: calibration error " + ", ".join(f"{n} {e} %" for n, e in words) + "."
    )
    return {
        "svg": inline_svg(figures.reliability_figure(bins, names=tables.NAMES), "reliability", label),
        "errors": words,
        "scaling": _grid(scaled) if len(scaled := tables.scaling_text(metrics)) else None,
    }


def _sizes(run: RunFolder) -> list[dict[str, str]]:
    return [
        {
            "name": shown(size.get("method")),
            "parameters": number(size.get("parameters"), 0),
            "megabytes": number(size.get("megabytes"), 1),
            "ms": number(size.get("ms_per_picture"), 2),
            "ms_single": number(size.get("ms_single"), 2),
        }
        for size in run.sizes
    ]


def _audit(value: Any) -> dict[str, Any] | None:
    """audit.json as the page shows it: its sentences, what was looked for, and a table of each finding."""
    if not isinstance(value, dict):
        return None
    found = {name: value.get("tables", {}).get(name) for name in AUDIT_TABLES}
    shown = []
    for name, rows in ((name, rows) for name, rows in found.items() if rows):
        columns = list(rows[0])
        cells = [[_cell(row.get(column)) for column in columns] for row in rows[:AUDIT_SHOWN]]
        grid = _aligned([column.replace("_", " ") for column in columns], cells)
        shown.append({"heading": AUDIT_TABLES[name], "grid": grid, "more": max(0, len(rows) - AUDIT_SHOWN)})
    return {
        "lines": [readable(line) for line in value.get("lines", [])],
        "checked": ", ".join(readable(check) for check in value.get("checked", [])),
        "pictures": number(value.get("pictures"), 0),
        "tables": shown,
    }


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return readable(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value)
