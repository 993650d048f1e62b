"""The data in hand: every usable picture as a stored face, with its row of the manifest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import Skipped, fit_square
from facenet2expnet.data.splits import official_columns
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import load_crops, worker_count
from facenet2expnet.faces.store import FaceStore, is_store

NO_LABEL = "no label"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures that can be trained and tested on.

    Attributes:
        manifest: N rows, each with a label.
        pixels: (N, stored_px, stored_px, 3) uint8 RGB.
        contract: how a picture as it came becomes such a crop.
        skipped: the pictures left out, each with its reason.
        unlabelled_pixels: (M, stored_px, stored_px, 3) uint8 RGB, faces without a label, where asked for.
        unlabelled: their rows.
    """

    manifest: Manifest
    pixels: np.ndarray
    contract: CropContract
    skipped: list[Skipped]
    unlabelled_pixels: np.ndarray
    unlabelled: Manifest


def load_dataset(
    data: str | Path | Manifest,
    contract: CropContract,
    *,
    unlabelled: bool = False,
    least_classes: int = 2,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read the pictures of a folder of class folders, a CSV or Parquet manifest, or a face store.

    Args:
        data: where they are, or a manifest.
        contract: size, window and pixel scale; also detector and template, unless the data was made ready
            already and brings them.
        unlabelled: keep pictures without a label for stage 1, but none that the manifest's split holds out;
            otherwise they are left out.
        least_classes: classes with pictures that there have to be.
        workers: threads; None for one a core.
        progress: called with how many pictures are done and how many there are.
    Raises:
        UserError: If the data can't be read, or holds too few classes.
    """
    manifest, pixels, skipped = read_faces(data, contract, workers=workers, progress=progress)
    contract = _made_ready(contract, manifest)
    blank = np.flatnonzero(manifest.labels < 0)
    kept = blank[_not_held_out(manifest)[blank]] if unlabelled else blank[:0]
    extra, extra_pixels = manifest.rows(kept), pixels[kept]
    if len(blank):
        images = manifest.table["image"]
        skipped += [Skipped(str(images[row]), NO_LABEL) for row in np.setdiff1d(blank, kept)]
        labelled = np.flatnonzero(manifest.labels >= 0)
        manifest, pixels = manifest.rows(labelled), pixels[labelled]
    found = [name for name, count in manifest.counts.items() if count]
    if len(found) < least_classes:
        named = ", ".join(found) or "none"
        raise UserError(f"{manifest.name}: classes with pictures: {named}; expected {least_classes} or more")
    return Dataset(manifest, pixels, contract, skipped, extra_pixels, extra)


def _not_held_out(manifest: Manifest) -> np.ndarray:
    """A mask of the rows that no column of the manifest puts into a valid or test part."""
    columns = [*official_columns(manifest), *(["split"] if "split" in manifest.table.columns else [])]
    return ~manifest.table[columns].isin(["valid", "test"]).any(axis=1).to_numpy(dtype=bool)


def read_faces(
    data: str | Path | Manifest,
    contract: CropContract,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Manifest, np.ndarray, list[Skipped]]:
    """Every usable picture, labelled or not: its manifest row, its face at the contract's size, and what was left out.

    Arguments and errors are those of `gather`.
    """
    if not isinstance(data, Manifest) and is_store(Path(data)):
        store = FaceStore.open(Path(data))
        return store.manifest, _resized(store.pixels, contract.stored_px, workers), list(store.skipped)
    manifest = data if isinstance(data, Manifest) else read_manifest(Path(data))
    pixels, rows, skipped = load_crops(manifest, _as_it_lies(contract, manifest), workers, progress=progress)
    return manifest.rows(rows), pixels, skipped


def _made_ready(contract: CropContract, manifest: Manifest) -> CropContract:
    """The contract for pictures as they came: finding and aligning is as the data was made ready."""
    made = manifest.contract
    if made is None:
        return contract
    return replace(
        contract, detector=made.detector, template=made.template, choice=made.choice, margin=made.margin
    )


def _as_it_lies(contract: CropContract, manifest: Manifest) -> CropContract:
    """The contract for the manifest's own files: faces that were made ready are only resized."""
    if manifest.contract is None:
        return contract
    return replace(contract, detector="already-cropped", template="none")


def _resized(pixels: np.ndarray, side_px: int, workers: int | None) -> np.ndarray:
    if pixels.shape[1] == side_px:
        return pixels
    with ThreadPoolExecutor(worker_count(workers)) as pool:
        return np.stack(list(pool.map(lambda crop: fit_square(np.asarray(crop), side_px), pixels)))
