"""Load the pictures of a run, and prepare checked splits for its jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from facenet2expnet import recipes
from facenet2expnet.data import audit, duplicates, splits
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import Manifest, as_data
from facenet2expnet.data.pictures import write_skipped
from facenet2expnet.data.splits import Protocol, Split
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.job import Progress, memory_errors
from facenet2expnet.faces.framing import estimate_framing
from facenet2expnet.faces.store import is_store
from facenet2expnet.files import atomic_path, write_json
from facenet2expnet.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the jobs of a run train and test on.

    Attributes:
        dataset: the pictures.
        protocol: where the splits come from.
        splits: with validation part and unlabelled rows where the recipe uses them, without copies of test pictures.
        copies: the pictures taken out as copies of test or validation pictures: split, part, row, image, kept_row,
            kept_image, kept_part, how.
        checks: plain sentences on what was checked, for log, report and run.json.
    """

    dataset: Dataset
    protocol: Protocol
    splits: list[Split]
    copies: pd.DataFrame
    checks: list[str]


def load_pictures(
    data: str | Path | Manifest | pd.DataFrame,
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    min_classes: int = 2,
) -> Dataset:
    """Read the pictures at the recipe's size.

    Raises:
        UserError: If they can't be read, are of too few classes, or do not fit in memory at this size.
    """
    data = as_data(data)
    folder = None if isinstance(data, Manifest) else data
    if folder and (folder / "manifest.csv").is_file() and not is_store(folder):
        log.warning("%s: its folders are taken as the classes, not its manifest.csv; to use that, name the file", data)
    what = f"crop.stored_px is {recipe.crop.stored_px}, and the pictures do not fit in memory at that size"
    with memory_errors(what, "take a smaller input size, or prepare them first (fn2en data prepare)", UserError):
        report = partial(progress, "reading faces") if progress else None
        dataset = load_dataset(data, recipe.crop, min_classes=min_classes, progress=report)
    for note in dataset.manifest.notes:
        log.info("%s", note)
    if min_classes:
        check_votes(dataset.manifest, recipe)
    return dataset


def check_votes(manifest: Manifest, recipe: Recipe) -> None:
    """Raise a UserError if the recipe learns votes, and the manifest has none."""
    voting = [stage for stage in ("fine_tune", "stage2", "scratch") if getattr(recipe, stage).votes]
    if voting and manifest.votes is None:
        raise UserError(f"{voting[0]}.votes is true, expected a manifest with shares of votes in columns p_<class>")


def prepare_inputs(
    dataset: Dataset, protocol: Protocol, recipe: Recipe, *, drop_near: bool = False, report_near: bool = True
) -> Inputs:
    """Make the splits ready for training: validation part, unlabelled rows, and no copies of test pictures.

    Args:
        dataset, protocol: the pictures, and the splits to use.
        recipe: says whether validation and unlabelled pictures are used.
        drop_near: take near-duplicates of test pictures out of the training part too.
        report_near: look for near-duplicates, which compares all pairs of pictures.
    Raises:
        UserError: If a training part is too small to take a validation part out of it.
    """
    manifest, checks = dataset.manifest, [protocol.note] if protocol.note else []
    prepared = protocol.splits
    _check_names([split.name for split in prepared])
    if recipe.needs_validation:
        prepared = [splits.with_validation(manifest, split, recipe.val_fraction) for split in prepared]
    elif any(len(split.validation) for split in prepared):
        if recipe.train_on_validation:
            prepared = [splits.merge_validation(split) for split in prepared]
        use = "trained on" if recipe.train_on_validation else "not used"
        checks.append(f"The official validation part is {use}, as the recipe says.")
    if recipe.stage1.unlabelled:
        prepared = [splits.with_unlabelled(manifest, split) for split in prepared]
    prepared, copies = duplicates.remove_copies(prepared, dataset.pixels, near=drop_near)
    images = manifest.table["image"].to_numpy(dtype=object)
    for name, rows in {"image": "row", "kept_image": "kept_row"}.items():
        copies[name] = images[copies[rows].to_numpy(dtype=int)]
    if recipe.needs_validation:
        sizes = sorted(len(split.validation) for split in prepared)
        if not sizes[0]:
            raise UserError(
                "all pictures of a validation part are copies of test pictures, and the recipe stops early or "
                "calibrates by it; list them with fn2en data audit, and add other pictures"
            )
        span = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        checks.append(f"Pictures in a fold's validation part, which no stage trains on: {span}.")
    if any(len(split.test) for split in prepared):  # otherwise there is nothing to copy
        checks.append(_copies_sentence(copies))
        if report_near:
            checks.append(_near_sentence(prepared, dataset))
    return Inputs(dataset, protocol, prepared, copies, checks)


def with_framing(dataset: Dataset) -> Dataset:
    """Return the dataset with a contract that knows how tightly its cut-out pictures are cut; see `estimate_framing`.

    It is saved with the models of a run, for photographs; no picture, weight or score of the run depends on it. So all
    labelled pictures are sampled, once for all folds.
    """
    if dataset.contract.detector != "already-cropped" or dataset.contract.framing is not None:
        return dataset
    framing = estimate_framing(dataset.pixels, (dataset.manifest.labels >= 0).nonzero()[0])
    return replace(dataset, contract=replace(dataset.contract, framing=framing))


def first_splits(protocol: Protocol, count: int | None) -> Protocol:
    """Return the protocol with its first splits only, and a note if some are left out; None keeps all."""
    if count is not None and count < 1:
        raise UserError(f"first_folds is {count}, expected 1 or more")
    if count is None or count >= len(protocol.splits):
        return protocol
    note = f"Only the first {count} of {len(protocol.splits)} folds were run."
    return replace(protocol, splits=protocol.splits[:count], note=f"{protocol.note} {note}".strip())


def write_inputs(folder: Path, inputs: Inputs, recipe: Recipe) -> None:
    """Write what the jobs of a run share, and log what a reader of the results should know."""
    dataset = inputs.dataset
    recipes.save(recipe, folder / "recipe.toml")
    dataset.manifest.save(folder / "manifest.csv")
    write_skipped(dataset.skipped, folder / "skipped.csv")
    if dataset.skipped:
        log.warning("Pictures that were left out: %d, see %s", len(dataset.skipped), folder / "skipped.csv")
    if all(len(split.test) for split in inputs.splits):
        splits.write_splits(inputs.splits, dataset.manifest, folder / "folds.json")
    with atomic_path(folder / "copies.csv") as path:
        inputs.copies.to_csv(path, index=False)
    found = audit.audit(dataset.manifest, dataset.pixels, inputs.splits, cheap=True)
    write_json(folder / "audit.json", found.to_dict())
    for sentence in inputs.checks:
        log.info("%s", sentence)
    if not found.clean or found.counts["conflicting_labels"] or found.counts["grey"]:
        for line in found.lines():
            log.warning("Audit: %s", line)


def _check_names(names: Sequence[str]) -> None:
    """Refuse folds that would share a folder or leave the run's."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"fold name '{name}' occurs {names.count(name)} times, expected different names")
        if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"fold name '{name}' is no folder name, expected e.g. fold-1")


def _copies_sentence(copies: pd.DataFrame) -> str:
    if not len(copies):
        return (
            "No training picture is identical to a test picture of the same fold (compared as stored, pixel by pixel)."
        )
    count = copies["image"].nunique()
    were = "picture was" if count == 1 else "pictures were"
    return f"{count} {were} left out as copies of test or validation pictures of the same fold (copies.csv)."


def _near_sentence(prepared: Sequence[Split], dataset: Dataset) -> str:
    found = duplicates.count_near(prepared, dataset.pixels)
    if found is None:
        return "Near-duplicates were not looked for: there are too many pictures to compare all pairs."
    if not found:
        return "No training picture is a near-duplicate of a test picture of the same fold."
    return (
        f"Training pictures that are near-duplicates of a test or validation picture of the same fold: {found}. They "
        "were trained on; to leave them out, use --drop-near."
    )
