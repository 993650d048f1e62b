"""FN2EN with a thousand real photographs: FER2013, the dlib face net, scratch and fine-tuning beside it.

    python benchmarks/fer2013_small.py FER2013 --out runs/fer2013-small
    python benchmarks/fer2013_small.py --merge runs/seed-0 runs/seed-1 runs/seed-2

`fn2en data how-to fer2013` describes the folder FER2013. The zip files training.zip and public_test.zip with
training.csv and public_test.csv are read too. Trained on 1,000 pictures of Training (seed 0; without copies of
PublicTest pictures, copies within Training and pictures without a label), tested on all of PublicTest, with
three seeds of the training. Seeds can be run one by one (`--seeds 0`); `--merge` then prints one table. A run with
another recipe needs a label there (`--merge runs/seed-0 start=runs/start-0`) and has rows of its own.

With `--manifest` the same pictures are written to a manifest for `fn2en ablate`:

    python benchmarks/fer2013_small.py FER2013 --manifest runs/choosing.csv --choose --training 4000

With `--choose`, PublicTest is not used; 2,000 other pictures of Training are the test part. With `--unlabelled
N`, N more pictures of Training are used without their labels, in stage 1 and for soft labels. With `--faces`, the
pictures that a start may see before any of these tests are written to a manifest for `fn2en pretrain`:

    python benchmarks/fer2013_small.py FER2013 --faces runs/faces.csv --labels ferplus
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import comparison
from facenet2expnet.crop import CropContract
from facenet2expnet.data import sources
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.duplicates import picture_hashes
from facenet2expnet.data.manifest import Manifest

TRAINING, CHOOSING = 1000, 2000


def subset(data: Path, work: Path, *, choose: bool, unlabelled: int, training: int, labels: str) -> Manifest:
    """Return the pictures of the benchmark as one manifest with a column `split`, drawn with seed 0.

    The test pictures of `choose` do not depend on the number of training pictures.
    """
    manifest = sources.read_into("fer2013", data, work / "pictures", labels=labels)
    dataset = load_dataset(manifest, CropContract(stored_px=48, crop_px=48))
    groups = picture_hashes(dataset.pixels)
    return draw(dataset.manifest, groups, choose=choose, unlabelled=unlabelled, training=training)


def draw(manifest: Manifest, groups: np.ndarray, *, choose: bool, unlabelled: int, training: int) -> Manifest:
    """Draw the pictures of the benchmark from all of FER2013.

    Args:
        manifest: with the parts of FER2013 in the column `split`.
        groups: (N,) of each row, equal for pictures that are copies.
        choose, unlabelled, training: see `subset`.
    """
    table = manifest.table
    choosing, others = training_rows(table, groups)
    test = np.flatnonzero(table["split"] == "valid")  # PublicTest
    parts = {"train": others[:training], "test": choosing if choose else test}
    without_label = others[training : training + unlabelled]
    rows = np.concatenate([*parts.values(), without_label])
    chosen = table.iloc[rows].reset_index(drop=True)
    chosen["split"] = np.repeat(["train", "test", ""], [*map(len, parts.values()), len(without_label)])
    hidden = chosen.index >= len(rows) - len(without_label)
    chosen.loc[hidden, "label"] = ""
    chosen.loc[hidden, [column for column in chosen if column.startswith("p_")]] = 0.0
    return replace(manifest, table=chosen, name=f"FER2013, {training} pictures", contract=None)


def training_rows(table: pd.DataFrame, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of Training that are kept for choosing, and all others, in drawn order, without copies."""
    taken, usable = set(groups[table["split"] == "valid"]), []
    for row in np.flatnonzero(table["split"] == "train"):
        if groups[row] not in taken:
            taken.add(groups[row])
            usable.append(row)
    drawn, kept = np.random.default_rng(0).permutation(usable), slice(TRAINING, TRAINING + CHOOSING)
    return drawn[kept], np.delete(drawn, kept)


def faces(data: Path, work: Path, *, labels: str) -> Manifest:
    """Return all pictures of Training, without labels, but those that are tested on and their copies.

    Neither PublicTest's pictures nor those that `--choose` tests on are in it.
    """
    tested = subset(data, work, choose=True, unlabelled=0, training=TRAINING, labels=labels).table
    manifest = sources.read_into("fer2013", data, work / "pictures", labels="fer2013", unlabelled="keep")
    dataset = load_dataset(manifest, CropContract(stored_px=48, crop_px=48))
    names = set(tested["image"][tested["split"] == "test"])
    return untested(dataset.manifest, picture_hashes(dataset.pixels), names)


def untested(manifest: Manifest, groups: np.ndarray, tested: set[str]) -> Manifest:
    """Return the pictures of Training without labels, but for those of these names, and copies of pictures kept out.

    Args:
        manifest, groups: see `draw`.
        tested: names of pictures of Training that are tested on.
    """
    table = manifest.table
    kept_out = ((table["split"] != "train") | table["image"].isin(tested)).to_numpy()
    rows = ~kept_out & ~np.isin(groups, groups[kept_out])
    return replace(manifest, table=table[rows].assign(label="", split=""), classes=(), name="FER2013", contract=None)


def main() -> None:
    """Read the options, run the comparison, print its table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", metavar="FER2013")
    parser.add_argument("--unlabelled", type=int, default=0)
    parser.add_argument("--training", type=int, default=TRAINING, help="pictures to learn from")
    parser.add_argument("--manifest", type=Path, help="write the pictures and their split to this CSV and stop")
    parser.add_argument("--faces", type=Path, help="write the pictures for a start to this CSV and stop")
    parser.add_argument("--labels", default="fer2013", choices=("fer2013", "ferplus"))
    parser.add_argument("--choose", action="store_true", help="test on pictures of Training, not on PublicTest")
    comparison.add_options(parser, seeds=(0, 1, 2))
    given = parser.parse_args()
    runs = given.merge
    if not runs:
        out = given.manifest or given.faces or given.out
        if not given.data or not out:
            parser.error("FER2013 and --out, --manifest or --faces are needed, or --merge")
        work = out.with_name(out.name + ".data")
        if given.faces:
            faces(given.data, work, labels=given.labels).save(given.faces)
            return
        manifest = subset(
            given.data, work, choose=given.choose, unlabelled=given.unlabelled, training=given.training,
            labels=given.labels,
        )  # fmt: skip
        if given.manifest:
            manifest.save(given.manifest)
            return
        settings = ["stage1.unlabelled=true"] if given.unlabelled else []
        runs = [comparison.run(manifest, given, *settings, protocol="split")]
    comparison.print_tables(runs, given.mean)


if __name__ == "__main__":
    main()
