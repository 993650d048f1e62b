"""FN2EN with a thousand real photographs: FER2013, the dlib face net, scratch and fine-tuning beside it.

    python benchmarks/fer2013_small.py FER2013 --out runs/fer2013-small
    python benchmarks/fer2013_small.py --merge runs/seed-0 runs/seed-1 runs/seed-2

`fn2en data how-to fer2013` describes the folder FER2013. The zip files training.zip and public_test.zip with
training.csv and public_test.csv are read too. Trained on 1,000 pictures of Training (seed 0; without copies of
PublicTest pictures, copies within Training and pictures without a label), tested on all of PublicTest, with
three seeds of the training. Seeds can be run one by one (`--seeds 0`); `--merge` then prints one table.

With `--manifest` the same pictures are written to a manifest for `fn2en ablate`:

    python benchmarks/fer2013_small.py FER2013 --manifest runs/choosing.csv --choose --training 4000

With `--choose`, PublicTest is not used; 2,000 other pictures of Training are the test part. With `--unlabelled
N`, N more pictures of Training are used in stage 1 without their labels. With `--faces`, the pictures that a start may
see before any of these tests are written to a manifest for `fn2en pretrain`:

    python benchmarks/fer2013_small.py FER2013 --faces runs/faces.csv --labels ferplus
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet import recipes
from facenet2expnet.cli import console
from facenet2expnet.crop import CropContract
from facenet2expnet.data import sources
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.duplicates import picture_hashes
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.report import tables
from facenet2expnet.report.run_folder import read_run

TRAINING, CHOOSING = 1000, 2000


def subset(data: Path, work: Path, *, choose: bool, unlabelled: int, training: int, labels: str) -> Manifest:
    """Return the pictures of the benchmark as one manifest with a column `split`, drawn with seed 0.

    The test pictures of `choose` do not depend on the number of training pictures.
    """
    manifest = sources.read_into("fer2013", data, work / "pictures", labels=labels)
    dataset = load_dataset(manifest, CropContract(stored_px=48, crop_px=48))
    manifest, table = dataset.manifest, dataset.manifest.table
    groups = picture_hashes(dataset.pixels)
    test = np.flatnonzero(table["split"] == "valid")  # PublicTest
    taken, usable = set(groups[test]), []
    for row in np.flatnonzero(table["split"] == "train"):
        if groups[row] not in taken:
            taken.add(groups[row])
            usable.append(row)
    drawn = np.random.default_rng(0).permutation(usable)
    choosing, others = (
        drawn[TRAINING : TRAINING + CHOOSING],
        np.delete(drawn, slice(TRAINING, TRAINING + CHOOSING)),
    )
    parts = {"train": others[:training], "test": choosing if choose else test}
    without_label = others[training : training + unlabelled]
    rows = np.concatenate([*parts.values(), without_label])
    chosen = table.iloc[rows].reset_index(drop=True)
    chosen["split"] = np.repeat(["train", "test", ""], [*map(len, parts.values()), len(without_label)])
    chosen.loc[len(rows) - len(without_label) :, "label"] = ""
    return replace(manifest, table=chosen, name=f"FER2013, {training} pictures", contract=None)


def faces(data: Path, work: Path, *, labels: str) -> Manifest:
    """Return all pictures of Training, without labels, but those that are tested on and their copies.

    Neither PublicTest's pictures nor those that `--choose` tests on are in it.
    """
    tested = subset(data, work, choose=True, unlabelled=0, training=TRAINING, labels=labels).table
    names = set(tested["image"][tested["split"] == "test"])
    manifest = sources.read_into("fer2013", data, work / "pictures", labels="fer2013", unlabelled="keep")
    dataset = load_dataset(manifest, CropContract(stored_px=48, crop_px=48))
    table, groups = dataset.manifest.table, picture_hashes(dataset.pixels)
    kept_out = (table["split"] == "valid") | table["image"].isin(names)
    rows = ~kept_out & ~np.isin(groups, groups[kept_out.to_numpy()])
    return replace(manifest, table=table[rows].assign(label="", split=""), classes=(), name="FER2013", contract=None)


def main() -> None:
    """Read the options, run the comparison, print its table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+", help="runs to print one table of")
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--method", action="append", dest="methods")
    parser.add_argument("--unlabelled", type=int, default=0)
    parser.add_argument("--training", type=int, default=TRAINING, help="pictures to learn from")
    parser.add_argument("--manifest", type=Path, help="write the pictures and their split to this CSV and stop")
    parser.add_argument("--faces", type=Path, help="write the pictures for a start to this CSV and stop")
    parser.add_argument("--labels", default="fer2013", choices=("fer2013", "ferplus"))
    parser.add_argument("--choose", action="store_true", help="test on pictures of Training, not on PublicTest")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.merge:
        print_tables(given.merge)
        return
    out = given.manifest or given.faces or given.out
    if not given.data or not out:
        parser.error("FER2013 and --out, --manifest or --faces are needed, or --merge")
    work = out.with_name(out.name + ".data")
    if given.faces:
        faces(given.data, work, labels=given.labels).save(given.faces)
        return
    manifest = subset(
        given.data, work, choose=given.choose, unlabelled=given.unlabelled, training=given.training, labels=given.labels
    )
    if given.manifest:
        manifest.save(given.manifest)
        return
    recipe = recipes.override(recipes.load(given.recipe), given.settings)
    if given.unlabelled:
        recipe = recipes.override(recipe, ["stage1.unlabelled=true"])
    with console.progress() as display:
        run = compare(
            manifest, recipe=recipe, out=given.out, methods=given.methods or ["scratch", "fine-tune", "fn2en"],
            protocol="split", seeds=given.seeds, device=given.device, threads=given.threads, resume=given.resume,
            progress=display,
        )  # fmt: skip
    print_tables([run])


def print_tables(runs: list[Path]) -> None:
    """Print the comparison and the paired tests of one or more runs together, as Markdown."""
    folders = [read_run(run) for run in runs]
    predictions = pd.concat([folder.predictions for folder in folders], ignore_index=True)
    metrics = summarise(predictions, folders[0].metadata["manifest"]["classes"])
    print(markdown(tables.comparison_text(metrics, "", folders[0].sizes)))
    print()
    print(markdown(tables.paired_text(metrics)))


def markdown(table: pd.DataFrame) -> str:
    """Return a table of text as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
