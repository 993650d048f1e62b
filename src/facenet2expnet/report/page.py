"""The report of a run: one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from facenet2expnet.data.pictures import read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import published
from facenet2expnet.files import well_formed, write_atomic
from facenet2expnet.report import figures, tables
from facenet2expnet.report.run_folder import RunFolder, read_run
from facenet2expnet.report.tables import display_name, number, percent, readable


def write_report(run: Path) -> Path:
    """Write report.html into a run folder and return its path.

    Styles, figures and thumbnails are inside the page. Only run.json is required; missing files leave their section
    out, and a picture that is gone from the disk is named without a thumbnail.

    Raises:
        UserError: If this is no run folder, or one of its files is damaged.
    """
    folder = read_run(run)
    out = folder.path / "report.html"
    with well_formed(folder.path, "one of its files was changed; go on with --resume, or remove that file"):
        content = render("report.html.j2", _context(folder))
    write_atomic(out, content)
    return out


def fn2en_words(recipe: Mapping[str, Any]) -> str:
    """Describe what FN2EN was trained to do.

    Args:
        recipe: as nested dictionaries; without the settings that are looked at, the paper's method is described.
    """
    face_net, expnet, stage1, stage2 = (recipe.get(name, {}) for name in ("face_net", "expnet", "stage1", "stage2"))
    words, count = ["FaceNet2ExpNet."], face_net.get("teachers", 1)
    if face_net.get("fine_tuned", True):
        several = f"{count} copies of the face network; their mean is the teacher" if count > 1 else "the face network"
        words.append(f"Stage 0 fine-tunes {several}, on the training part.")
    if (start := expnet.get("start", "none")) != "none":
        words.append(f"The expression network begins with the start '{start}', distilled from faces without labels.")
    if stage1.get("epochs", 1):
        what = (
            "Stage 1 trains the convolutions of the expression network to reproduce the frozen face network's features."
        )
        words.append(what)
    soft = " and on the face network's soft labels" if stage2.get("soft_labels") else ""
    words.append(f"Stage 2 adds fully connected layers and trains the whole expression network on the labels{soft}.")
    return " ".join(words)


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """An HTML page from a template of this package; every value is escaped."""
    environment = Environment(
        loader=PackageLoader("facenet2expnet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (readable, display_name, percent, number, words_in_columns):
        environment.filters[function.__name__] = function
    return environment.get_template(template).render(context).encode("utf-8", "replace")


def words_in_columns(table: pd.DataFrame) -> list[bool]:
    """Whether each column of a table holds words; these are aligned to the left."""
    is_number = re.compile(r"[-+<±]? ?[0-9]|–|$")
    return [not all(is_number.match(str(cell)) for cell in table.iloc[:, i]) for i in range(table.shape[1])]


def page_figure(name: str, figure: Figure, numbers: pd.DataFrame) -> dict[str, Any]:
    """A figure and the numbers that it shows, as the template's macro `figure` needs them."""
    csv = base64.b64encode(numbers.to_csv(index=False).encode("utf-8")).decode("ascii")
    return {
        "name": name,
        "src": figures.data_uri(figure),
        "width_in": float(figure.get_figwidth()),
        "csv": f"data:text/csv;base64,{csv}",
        "table": tables.as_text(numbers),
    }


def _context(run: RunFolder) -> dict[str, Any]:
    """Everything that the template shows."""
    audit = (run.audit or {}).get("tables", {})
    context = {
        "run": run,
        "metadata": {"manifest": {}, "protocol": {}, **run.metadata},
        "metrics": run.metrics,
        "curves": None,
        "sizes": tables.as_text(pd.DataFrame(run.sizes).replace({"method": tables.NAMES})),
        "paper": published,
        "fn2en_words": fn2en_words(run.metadata.get("identity", {}).get("recipe", {})),
        "audit": {name: tables.as_text(pd.DataFrame(rows)) for name, rows in audit.items() if rows},
    }
    if run.history is not None:
        means = run.history.groupby(["method", "stage", "epoch"], sort=False).mean(numeric_only=True)
        means = means.drop(columns="seed").reset_index()
        context["curves"] = page_figure("curves", figures.curves_figure(run.history), means)
    return context | (_results(run, run.metrics) if run.metrics else {})


def _results(run: RunFolder, metrics: dict[str, Any]) -> dict[str, Any]:
    """The part of the context that needs predictions."""
    methods, classes = metrics["methods"], metrics["classes"]
    main = "fn2en" if "fn2en" in methods else list(methods)[-1]
    dataset = run.metadata.get("manifest", {}).get("name", "")
    accuracies = [method["mean"]["accuracy"] for method in methods.values()]
    class_totals = np.sum(methods[main]["pooled"]["confusion"], axis=1)
    chance = float(class_totals.max() / class_totals.sum())
    folds, subjects = tables.per_fold(metrics), tables.per_subject(metrics)
    by = "fold" if folds["fold"].nunique() > 1 else "seed"
    fold_rows = _rows(folds.groupby(by, sort=False)[list(methods)].mean())
    fold_rows["paper"] = fold_rows["method"].map(published.paper_accuracies(dataset, len(classes)))
    subject_figure = figures.accuracy_rows(_rows(subjects[list(methods)]))
    bins = pd.DataFrame([{"method": k, **part} for k, m in methods.items() for part in m["reliability"]])
    return {
        "main": main,
        "chance": chance,
        "std_over": tables.std_of(methods[main])[0],
        "comparison": tables.comparison_text(metrics, dataset),
        "best": [value == max(accuracies) and len(methods) > 1 for value in accuracies],
        "tests": tables.paired_text(metrics),
        "folds": page_figure("folds", figures.accuracy_rows(fold_rows, chance=chance), folds),
        "confusions": {name: _confusion(name, m["pooled"]["confusion"], classes) for name, m in methods.items()},
        "subjects": page_figure("subjects", subject_figure, subjects) if len(subjects) else None,
        "mistakes": {name: _mistakes(run, name) for name in sorted(methods, key=lambda name: name != main)},
        "reliability": page_figure("reliability", figures.reliability_figure(bins), bins),
        "scaling": tables.scaling_text(metrics),
    }


def _rows(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `figures.accuracy_rows` for a table of accuracies with one column per method."""
    rows = pd.DataFrame({"method": runs.columns, "label": map(display_name, runs.columns)})
    rows["accuracy"], rows["std"] = runs.mean().to_numpy(), runs.std().to_numpy()
    rows["runs"] = [values.dropna().tolist() for _, values in runs.items()]
    return rows


def _confusion(name: str, counts: list[list[int]], classes: list[str]) -> dict[str, Any]:
    figure = figures.confusion_panels({display_name(name): counts}, classes)
    numbers = pd.DataFrame(counts, columns=classes, index=pd.Index(classes, name="true class"))
    return page_figure(f"confusion-{name}", figure, numbers.reset_index())


def _mistakes(run: RunFolder, method: str) -> list[Any]:
    """The most confident mistakes of a method with their thumbnails."""
    rows: list[Any] = (
        [] if run.predictions is None else confident_mistakes(run.predictions, method, 12).to_dict("records")
    )
    return [row | dict(zip(("uri", "reason"), thumbnail(run.root / row["image"]), strict=True)) for row in rows]


def confident_mistakes(predictions: pd.DataFrame, method: str, count: int) -> pd.DataFrame:
    """The wrong predictions of a method, the highest probability first, each picture once.

    Returns:
        Columns image, truth, predicted, probability (of the predicted class), truth_probability; at most `count` rows.
    """
    truth = predictions["truth"].fillna("")
    wrong = predictions[(predictions["method"] == method) & (truth != "") & (truth != predictions["predicted"])]
    table, rows = wrong[["image", "truth", "predicted"]], wrong.to_dict("records")
    table = table.assign(
        probability=[float(row[f"p_{row['predicted']}"]) for row in rows],
        truth_probability=[float(row[f"p_{row['truth']}"]) for row in rows],
    )
    table = table.sort_values(["probability", "image"], ascending=[False, True], kind="stable")
    return table.drop_duplicates("image").head(count).reset_index(drop=True)


def thumbnail(path: Path, side_px: int = 144) -> tuple[str | None, str]:
    """A JPEG of at most `side_px` on the longer side as a data URI and ""; or None and the reason."""
    try:
        picture = Image.fromarray(read_picture(path))
    except UserError as error:
        return None, str(error)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), ""
