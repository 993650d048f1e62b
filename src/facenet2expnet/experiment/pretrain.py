"""`pretrain` makes a start: an expression net that knows faces before it sees labels."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet import recipes
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.folders import passed_over, search
from facenet2expnet.data.manifest import Manifest, as_data
from facenet2expnet.data.pictures import picture_endings
from facenet2expnet.data.splits import Protocol, Split
from facenet2expnet.data.table import read_csv, tidy_columns
from facenet2expnet.device import choose_device
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.inputs import Inputs, load_pictures
from facenet2expnet.experiment.job import Progress
from facenet2expnet.experiment.run import begin, describe, now, run_folder, settle_precision, threads_restored
from facenet2expnet.faces.store import is_store
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.start import save_start
from facenet2expnet.training.teacher import TrainingSet

RECORD = "pretrain.json"
EPOCHS = 20
"""Passes over the faces, where neither the call nor the recipe says how many."""

HELD_OUT, MOST_HELD_OUT = 0.05, 2000
"""Share of the faces that R2 is measured on, and their largest number."""

log = logging.getLogger(__name__)


@threads_restored()
def pretrain(
    data: str | Path | Manifest | pd.DataFrame,
    *,
    recipe: Recipe | str | Path = "quick",
    out: str | Path,
    epochs: int | None = None,
    licence: str = "",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Distil the untouched face net into an expression net on faces without labels; write a start.

        pretrain("faces/", out="starts/mine")     # then: recipe with expnet.start = "starts/mine"

    Every step sees fresh views, each mixed with another face. A part of the faces is held out; R2 of it is logged after
    every epoch.

    Args:
        data: a folder of pictures at any depth, a CSV or Parquet manifest, a face store, or a manifest; labels are not
            used.
        recipe: its crop, augmentation, face net, expression net with its own start, and stage 1's optimiser are used.
        out: the folder of the start; new, or with `resume` one that the same call began.
        epochs: passes over the faces; None for the recipe's stage1.epochs, or EPOCHS if that is 0.
        licence: what is known of the pictures' licence; saved with the start.
        seed, device, threads, resume, progress: see `compare`.
    Returns:
        The folder, with start.safetensors and start.json.
    Raises:
        UserError: If anything given can't be used; nothing is written then.
    """
    started, out = time.monotonic(), Path(out)
    recipe = recipes.load(recipe)
    epochs = recipe.stage1.epochs or EPOCHS if epochs is None else epochs
    warmup = min(recipe.stage1.warmup_epochs, epochs - 1)
    recipe = recipes.override(recipe, [f"stage1.epochs={epochs}", f"stage1.warmup_epochs={warmup}"])
    earlier = begin(out / RECORD, "a pretraining", ["fn2en"], [seed], threads, resume=resume)
    info, compute = stages.check(recipe), choose_device(device)
    recipe = settle_precision(recipe, compute, earlier)
    dataset = _load_faces(data, recipe, progress)
    train, held_out = _hold_out(dataset.manifest, seed)
    split = Split("all", train, train[:0], held_out)
    inputs = Inputs(dataset, Protocol("none", [split], ""), [split], pd.DataFrame(), [])
    about = describe(inputs, recipe, compute, earlier, kind="pretrain", seed=seed)
    with run_folder(out / RECORD, earlier, about, started) as (update, _):
        log.info("%d faces to learn from, %d held out", len(train), len(held_out))
        unknown = np.full(len(dataset.manifest), -1)
        validation = TrainingSet(dataset.pixels, held_out, unknown[held_out], 2, compute)
        faces = TrainingSet(dataset.pixels, train, unknown[train], 2, compute, validation)

        def on_epoch(record: EpochRecord) -> None:
            log.info(
                "epoch %d of %d: loss %.4f, R2 %.3f on held-out faces, %.0f s",
                record.epoch, record.epochs, record.loss, record.r2, record.seconds,
            )  # fmt: skip
            if progress:
                progress("pretraining", record.epoch, record.epochs)

        model, records = stages.pretrain(faces, stages.TrainingContext(recipe, seed, compute, on_epoch), out)
        metadata = {
            "face_net": info.name,
            "tap": recipe.face_net.tap or info.default_tap,
            "data": about["manifest"] | {"trained_on": len(train), "held_out": len(held_out)},
            "licence": licence or "not stated",
            "mean": list(recipe.crop.mean),
            "scale": recipe.crop.scale,
            "began_with": stages.start_metadata(recipe),
            "r2_held_out": records[-1].r2,
            "recipe": recipes.to_dict(recipe),
            "seed": seed,
            **{key: about[key] for key in ("command", "created", "versions", "device")},
        }
        save_start(model.net, out, metadata)
        update(finished=now())
    return out


def _load_faces(data: str | Path | Manifest | pd.DataFrame, recipe: Recipe, progress: Progress | None) -> Dataset:
    """Read the faces of a manifest, a store, or all pictures below a folder."""
    if isinstance(data, pd.DataFrame) and "label" not in tidy_columns(data, "the DataFrame"):
        data = data.assign(label="")
    data = as_data(data)
    if not isinstance(data, Manifest) and data.is_dir() and not is_store(data):
        folder = data
        found, others = search(folder, picture_endings())
        sentence = passed_over(others)
        images = [path.relative_to(folder).as_posix() for path in found]
        if not images:
            raise UserError(f"{folder}: no picture in this folder or below it. {sentence}".strip())
        notes = (sentence,) if sentence else ()
        data = Manifest(pd.DataFrame({"image": images, "label": ""}), folder, name=folder.resolve().name, notes=notes)
    elif not isinstance(data, Manifest) and data.suffix.lower() == ".csv" and data.is_file():
        table = tidy_columns(read_csv(data)[0], str(data))
        if "image" in table and "label" not in table:  # a table of faces alone
            data = Manifest(table.assign(label=""), data.parent, name=data.stem)
    return load_pictures(data, recipe, progress, min_classes=0)


def _hold_out(manifest: Manifest, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to learn from and rows held out; whole subjects or sequences where they are known.

    Raises:
        UserError: If there are fewer than two of them.
    """
    groups = np.random.default_rng(seed).permutation(np.unique(manifest.groups))
    if len(groups) < 2:
        raise UserError(f"{manifest.name}: pretraining needs two faces or more of different subjects")
    wanted = min(MOST_HELD_OUT, HELD_OUT * len(manifest))
    sizes = np.cumsum(np.bincount(manifest.groups)[groups])
    count = min(max(1, int(np.searchsorted(sizes, wanted)) + 1), len(groups) - 1)
    held = np.isin(manifest.groups, groups[:count])
    return np.flatnonzero(~held), np.flatnonzero(held)
