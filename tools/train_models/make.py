"""Train the models that the package ships, from FER2013 with the votes of FER+.

    python tools/train_models/make.py FER2013 --out runs/models --threads 1

`fn2en data how-to fer2013` describes the folder FER2013, which needs the votes of FER+. The same command goes on
where an earlier call was stopped.

Training's pictures without copies of PublicTest are drawn into three parts with seed 0: 2,000 to choose by, which the
starts of tools/make_start.py have not seen either, 1,000 to calibrate on, and all others to learn from, with the votes
as targets. No picture of PublicTest or PrivateTest is trained on or chosen by: they are read to find copies, and
`ship.py` tests a finished model on PublicTest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet import recipes
from facenet2expnet.cli import console
from facenet2expnet.crop import CropContract
from facenet2expnet.data import sources
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.duplicates import picture_hashes
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.experiment import ablation

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

CALIBRATION = 1000
TEACHER = [
    "face_net.teachers=3", "fine_tune.epochs=7", "fine_tune.batch_size=64", "fine_tune.lr_factor_pretrained=0.1",
    "fine_tune.votes=true",
]  # fmt: skip
STUDENT = ["stage2.votes=true", "stage1.cached_views=8", "stage1.mixed_views=0.5", "calibrate=true"]
MODELS = {
    "small": ["expnet.width=0.25", "expnet.start=faces", "stage2.epochs=40"],
    "standard": ["expnet.width=0.5", "expnet.start=faces", "stage2.epochs=16"],
}
"""Model -> what differs from the recipe `quick` with TEACHER and STUDENT."""


def pictures(data: Path, work: Path) -> Manifest:
    """Return FER2013's Training part with the votes of FER+, its rows drawn into train, valid and test."""
    manifest = sources.read_into("fer2013", data, work / "pictures", labels="ferplus", unlabelled="keep")
    dataset = load_dataset(manifest, CropContract(stored_px=48, crop_px=48))
    return draw(dataset.manifest, picture_hashes(dataset.pixels))


def draw(manifest: Manifest, groups: np.ndarray) -> Manifest:
    """Draw the parts.

    Args:
        manifest: FER2013 with votes, the pictures without a majority kept.
        groups: (N,) of each row, equal for pictures that are copies.
    """
    from fer2013_small import training_rows

    labelled = manifest.labels >= 0
    own = np.flatnonzero(labelled)
    chosen = own[training_rows(manifest.table[labelled].reset_index(drop=True), groups[labelled])[0]]
    table, votes = manifest.table.copy(), manifest.votes
    assert votes is not None
    in_training = (table["split"] == "train").to_numpy()
    first = np.zeros(len(table), bool)
    first[np.unique(np.where(in_training, groups, -1), return_index=True)[1]] = True  # of its copies in Training
    kept_out = set(groups[~in_training]) | set(groups[chosen])
    usable = in_training & first & (votes.sum(1) > 0) & ~np.isin(groups, list(kept_out))
    clear = np.flatnonzero(usable & labelled)
    calibration = np.random.default_rng(0).permutation(clear)[:CALIBRATION]
    table["split"] = ""
    table.loc[usable, "split"] = "train"
    table.loc[usable, "label"] = np.array(manifest.classes, object)[votes[usable].argmax(1)]
    table.loc[calibration, "split"] = "valid"
    table.loc[chosen, "split"] = "test"
    table = table[table["split"] != ""].reset_index(drop=True)
    return replace(manifest, table=table, name="FER2013 with FER+ votes", contract=None, notes=())


def train(
    manifest: Path, out: Path, models: Mapping[str, Sequence[str]] = MODELS, *, settings: Sequence[str] = (), **how: Any
) -> None:
    """Fine-tune three face nets, and train every model with their mean as the teacher.

    Args:
        manifest: the CSV of `pictures`.
        out: the run folder; one that is there is gone on with.
        models: model -> its settings; the first is the base of the ablation.
        settings: for all of them, before their own.
        how: device, threads and progress; see `ablate`.
    """
    first, *others = models.values()
    recipe = recipes.override(recipes.load("quick"), [*TEACHER, *STUDENT, *settings, *first])
    ablation.ablate(
        manifest, [" & ".join(own) for own in others], recipe=replace(recipe, name="shipped"), out=out,
        methods=("fine-tune", "fn2en"), protocol="split", resume=(out / ablation.RECORD).is_file(), **how,
    )  # fmt: skip


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fer2013", type=Path, metavar="FER2013")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    manifest = given.out.with_name(given.out.name + ".data") / "manifest.csv"
    if not manifest.is_file():
        pictures(given.fer2013, manifest.parent).save(manifest)
    with console.progress() as display:
        train(
            manifest, given.out, settings=given.settings, device=given.device, threads=given.threads,
            progress=display,
        )  # fmt: skip
    print(pd.read_csv(given.out / "table.csv")[["number", "method", "accuracy", "negative_log_likelihood"]])


if __name__ == "__main__":
    main()
