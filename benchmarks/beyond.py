"""What goes beyond the paper, measured on the bundled sample: identity left in the features, and temperature scaling.

    python benchmarks/beyond.py --out runs/beyond --seeds 0 1 2
    python benchmarks/beyond.py --out runs/beyond --seeds 0 1 2 --tables     # of seeds that are done
    python benchmarks/beyond.py --out runs/beyond-short --seeds 0 --first-folds 1

Each seed is one run of `compare` with recipe `quick` and `calibration_share` (OUT/seed-0), two groups of subjects.
FN2EN's stage 2 is then trained again from the same stage 1 with each weight of the adversary
(OUT/seed-0-adversarial-0.1), which is what a run with `--set stage2.adversarial=0.1` trains. Probes are linear and on
the test part: the person in sequences held out, the expression in persons held out. Rendered faces: the numbers say
nothing about real ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from facenet2expnet import recipe as recipes
from facenet2expnet.analysis.layers import all_responses, hidden_layer
from facenet2expnet.analysis.probes import expression_probe, identity_probe
from facenet2expnet.cli import console
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.splits import read_splits
from facenet2expnet.experiment.job import Cut, plan, run_job, with_calibration
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.experiment.run import Machine, compare, open_device
from facenet2expnet.nets import face
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.recipe import Recipe
from facenet2expnet.report import tables

SHARE = 0.15
"""Of the training part, for the temperature."""

NAMES = {"scratch": "from scratch", "fine-tune": "fine-tuned face net", "fn2en": "FN2EN"}


def cuts_of(run: Path, dataset: Dataset, recipe: Recipe) -> list[Cut]:
    """The run's folds, the inner part taken out as the run did."""
    folds = read_splits(run / "folds.json", dataset.manifest)
    cuts = [Cut(fold.name, fold.train, fold.test) for fold in folds]
    return [with_calibration(cut, dataset.manifest, recipe.calibration_share) for cut in cuts]


def train_opposed(run: Path, weight: float, seed: int, dataset: Dataset, recipe: Recipe) -> Path:
    """Stage 2 with an adversary of this weight, from the run's own stage 1; gives the folder of its folds."""
    out = run.with_name(f"{run.name}-adversarial-{weight:g}")
    opposed = recipes.override(recipe, [f"stage2.adversarial={weight}"])
    fabric = open_device("cpu", recipe.precision)
    with console.progress() as reporter:
        for job in plan(cuts_of(run, dataset, recipe), ["fn2en"], [seed], opposed, out):
            if job.training.method != "fn2en":
                continue
            base = run / job.cut.name
            job = dataclasses.replace(job, teacher_folder=base / "fine-tune")
            job.folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(base / "fn2en" / "stage1.safetensors", job.folder)
            run_job(job, dataset, opposed, fabric, reporter, {"trained_on": {}})
    return out


def probe(name: str, net: nn.Module, predictions: Path | None, cut: Cut, dataset: Dataset) -> dict[str, Any]:
    """One row: what the net's top hidden layer tells of expression and of person on the test part."""
    rows, manifest = cut.test, dataset.manifest
    features = all_responses(net, dataset.pixels[rows], hidden_layer(net), dataset.contract.crop_px)
    subjects, sequences = manifest.subjects, manifest.sequences
    assert subjects is not None
    assert sequences is not None
    expression = expression_probe(features, manifest.labels[rows], subjects[rows])
    identity = identity_probe(features, subjects[rows], sequences[rows])
    table = None if predictions is None else pd.read_parquet(predictions)
    return {
        "network": name,
        "fold": cut.name,
        "accuracy": np.nan if table is None else (table["truth"] == table["predicted"]).mean(),
        "expression": expression.accuracy,
        "expression_chance": expression.chance,
        "identity": identity.accuracy,
        "identity_chance": identity.chance,
    }


def probes(run: Path, opposed: dict[float, Path], dataset: Dataset, recipe: Recipe) -> pd.DataFrame:
    """Every network of one seed, fold by fold."""
    rows = []
    for cut in cuts_of(run, dataset, recipe):
        rows.append(probe("face net as it came", face.load(recipe.face_net.name), None, cut, dataset))
        folders = {name: run / cut.name / method for method, name in NAMES.items()}
        folders |= {
            f"FN2EN, adversary {weight:g}": out / cut.name / "fn2en" for weight, out in opposed.items()
        }
        for name, folder in folders.items():
            net = load_model(folder / "model").module
            rows.append(probe(name, net, folder / "predictions.parquet", cut, dataset))
    return pd.DataFrame(rows)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Means over folds and seeds, with the standard deviation over seeds."""
    scores = ["accuracy", "expression", "identity"]
    per_seed = table.groupby(["network", "seed"], sort=False)[scores].mean()
    groups = per_seed.groupby("network", sort=False)
    mean, spread = groups.mean(), groups.std()
    chance = table.groupby("network", sort=False)[["expression_chance", "identity_chance"]].mean()
    text = {
        score: [tables.percent_spread(m, s) for m, s in zip(mean[score], spread[score], strict=True)]
        for score in scores
    }
    return pd.DataFrame(
        {
            "network": mean.index,
            "accuracy, %": text["accuracy"],
            "expression probe, %": text["expression"],
            "(chance)": [tables.percent(value) for value in chance["expression_chance"]],
            "identity probe, %": text["identity"],
            "(chance) ": [tables.percent(value) for value in chance["identity_chance"]],
        }
    )


def main() -> None:
    """Read the options, train what is not there, print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--first-folds", type=int, help="do only so many of the two folds")
    parser.add_argument("--tables", action="store_true", help="print only")
    given = parser.parse_args()
    recipe = recipes.override(recipes.preset("quick"), [f"calibration_share={SHARE}", *given.settings])
    torch.set_num_threads(1)
    manifest = read_manifest(sample_folder() / "manifest.csv")
    dataset = load_dataset(manifest, recipe.crop)
    found, predictions = [], []
    for seed in given.seeds:
        run = given.out / f"seed-{seed}"
        if not given.tables:
            with console.progress() as reporter:
                compare(
                    manifest, recipe=recipe, out=run, folds=2, first_folds=given.first_folds, seeds=[seed],
                    machine=Machine("cpu", 1), resume=(run / "run.json").is_file(), reporter=reporter,
                )  # fmt: skip
            for weight in given.weights:
                train_opposed(run, weight, seed, dataset, recipe)
        opposed = {weight: run.with_name(f"{run.name}-adversarial-{weight:g}") for weight in given.weights}
        found.append(probes(run, opposed, dataset, recipe).assign(seed=seed))
        predictions.append(pd.read_parquet(run / "predictions.parquet"))
    table = pd.concat(found, ignore_index=True)
    table.to_csv(given.out / "probes.csv", index=False)
    print(tables.to_markdown(as_text(table)))
    print()
    metrics = summarise(pd.concat(predictions, ignore_index=True), manifest.classes)
    print(tables.to_markdown(tables.scaling_text(metrics)))


if __name__ == "__main__":
    main()
