"""What the benchmarks share: the options of a comparison, and one table of several runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet import recipes
from facenet2expnet.cli import console
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.job import METHODS
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.experiment.variants import training_key
from facenet2expnet.report import tables
from facenet2expnet.report.run_folder import RunFolder, read_run


@dataclass(frozen=True, eq=False)
class Rows:
    """The methods of a table, in its order.

    Attributes:
        classes: the class names.
        predictions: as `summarise` takes them; `method` is the name of the row.
        sizes: rows of sizes.json with these names.
    """

    classes: list[str]
    predictions: pd.DataFrame
    sizes: list[dict[str, Any]]


def add_options(parser: argparse.ArgumentParser, *, seeds: Sequence[int]) -> None:
    """Add the options of a comparison and of its table."""
    parser.add_argument("--out", type=Path, help="the run folder")
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--method", action="append", dest="methods", choices=METHODS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--merge", nargs="+", metavar="[LABEL=]RUN", help="only print one table of these runs")
    parser.add_argument(
        "--mean", action="append", default=[], choices=METHODS, help="a row for the averaged probabilities of its seeds"
    )


def run(manifest: Manifest, given: argparse.Namespace, *settings: str, **folds: Any) -> Path:
    """Run the comparison that the options ask for.

    Args:
        manifest: the pictures.
        given: the options of `add_options`.
        settings: of the recipe, before those of the options.
        folds: `protocol` and `folds` of `compare`.
    """
    recipe = recipes.override(recipes.load(given.recipe), [*settings, *given.settings])
    with console.progress() as display:
        return compare(
            manifest, recipe=recipe, out=given.out, methods=given.methods or METHODS, seeds=given.seeds,
            device=given.device, threads=given.threads, resume=given.resume, progress=display, **folds,
        )  # fmt: skip


def print_tables(runs: Sequence[str | Path], mean: Sequence[str] = ()) -> None:
    """Print the comparison and the paired tests of one or more runs together, as Markdown."""
    rows = merge(runs)
    for method in mean:
        rows = with_mean(rows, method)
    metrics = summarise(rows.predictions, rows.classes)
    print(markdown(tables.comparison_text(metrics, "", rows.sizes)))
    print()
    print(markdown(tables.paired_text(metrics)))


def merge(runs: Sequence[str | Path]) -> Rows:
    """Join runs to one table: those of one recipe and label share rows, as runs of different seeds do.

    A method of a labelled run has a row of its own, named as "FN2EN, start". A baseline that is the same training as in
    a run before, whatever that is called, adds its seeds to that one's row; a seed that is there already is left out.

    Args:
        runs: run folders, each a path or LABEL=path.
    Raises:
        UserError: If two recipes would share a row, or two runs test a fold on different pictures.
    """
    names: dict[tuple[str, str], str] = {}  # method and what its training depends on -> row
    parts: dict[tuple[str, str, int], pd.DataFrame] = {}  # row, fold, seed -> predictions
    sizes: dict[str, dict[str, Any]] = {}
    classes, tested = list[str](), dict[str, frozenset[str]]()
    for label, folder in map(_read, runs):
        assert folder.predictions is not None
        classes = classes or folder.metadata["manifest"]["classes"]
        if classes != folder.metadata["manifest"]["classes"]:
            raise UserError(f"{folder.path}: has other classes than the runs before it")
        recipe = recipes.read(folder.path / "recipe.toml")
        for (method, fold, seed), part in folder.predictions.groupby(["method", "fold", "seed"], sort=False):
            key, row = (method, training_key(method, recipe)), method
            if label:
                row = f"{tables.display_name(method)}, {label}"
            if key not in names and row in names.values():
                raise UserError(f"{folder.path}: '{row}' has another recipe than before; give LABEL={folder.path}")
            row = names.setdefault(key, row)
            if tested.setdefault(fold, frozenset(part["image"])) != frozenset(part["image"]):
                raise UserError(f"{folder.path}: fold {fold} is tested on other pictures than in the runs before it")
            parts.setdefault((row, fold, int(seed)), part.assign(method=row))
            sizes[row] = next((size | {"method": row} for size in folder.sizes if size["method"] == method), {})
    order = {row: METHODS.index(method) for (method, _), row in names.items()}
    ordered = sorted(parts, key=lambda part: order[part[0]])  # stable: runs stay in the order given
    predictions = pd.concat([parts[key] for key in ordered], ignore_index=True)
    return Rows(classes, predictions, [sizes[row] for row in order if sizes[row]])


def with_mean(rows: Rows, method: str) -> Rows:
    """Add a row after a method's: its seeds' probabilities averaged, as if they were one net.

    Every fold then has one training of it, which is compared with the first seed's of the other rows.
    """
    own = rows.predictions[rows.predictions["method"] == method]
    seeds = own["seed"].nunique()
    if seeds < 2:
        raise UserError(f"--mean {method}: needs two seeds or more, got {seeds}")
    name = f"{tables.display_name(method)}, mean of {seeds}"
    columns = [f"p_{one}" for one in rows.classes]
    means = own.groupby(["fold", "image"])[columns].mean()
    first = own[own["seed"] == own["seed"].min()].drop(columns="temperature", errors="ignore")
    first = first.drop(columns=columns).merge(means, left_on=["fold", "image"], right_index=True)
    predicted = first[columns].to_numpy().argmax(axis=1)
    first = first.assign(method=name, predicted=[rows.classes[number] for number in predicted])
    place = int(own.index.max()) + 1
    parts = [rows.predictions.iloc[:place], first, rows.predictions.iloc[place:]]
    scaled = ("parameters", "megabytes", "ms_per_picture", "ms_single", "multiply_adds")
    of_one = next((size for size in rows.sizes if size["method"] == method), None)
    sizes = [] if of_one is None else [{"method": name} | {key: seeds * of_one[key] for key in scaled}]
    return Rows(rows.classes, pd.concat(parts, ignore_index=True), [*rows.sizes, *sizes])


def markdown(table: pd.DataFrame) -> str:
    """Return a table of text as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _read(run: str | Path) -> tuple[str, RunFolder]:
    """Return the label, "" without one, and the files of a run that has predictions."""
    label, equals, path = str(run).partition("=")
    if not equals or Path(run).is_dir():
        label, path = "", str(run)
    folder = read_run(Path(path))
    if folder.predictions is None:
        raise UserError(f"{path}: has no predictions.parquet; is the run finished?")
    return label, folder
