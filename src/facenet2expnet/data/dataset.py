"""The dataset: every usable picture as a stored face, with its row of the manifest."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facenet2expnet.crop import CropContract, resize_square
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import Progress, check_any, crop_files
from facenet2expnet.faces.store import FACE_COLUMN, MANIFEST, FaceStore, is_store

MAX_IN_MEMORY = 1_000_000_000
"""Bytes of faces that are held in memory at most; 64,000 faces of 72 pixels."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Faces to train and test on, labelled and unlabelled together.

    Attributes:
        manifest: N rows; a row without a label has `manifest.labels` -1.
        pixels: (N, stored_px, stored_px, 3) uint8 RGB, row by row; memory-mapped if a face store has this size.
        contract: how a picture becomes such a face.
        skipped: the pictures that could not be used, each with its reason.
    """

    manifest: Manifest
    pixels: np.ndarray
    contract: CropContract
    skipped: list[Skipped]

    def pixels_sha256(self) -> str:
        """The hash of all faces and their shape, read in chunks."""
        digest = hashlib.sha256(str(self.pixels.shape).encode())
        for first in range(0, len(self.pixels), 256):
            digest.update(self.pixels[first : first + 256].tobytes())
        return digest.hexdigest()


def load_dataset(
    data: str | Path | Manifest,
    contract: CropContract,
    *,
    min_classes: int = 2,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load the faces of a folder of class folders, a CSV or Parquet manifest, or a face store.

    A face store whose faces have the contract's `stored_px` is memory-mapped. All other faces, N * stored_px^2 * 3
    bytes, are held in memory, or above `MAX_IN_MEMORY` in a temporary file, so that memory does not grow with the set.

    Args:
        data: the path, or a manifest.
        contract: how a picture becomes a face. A face store, or the manifest of one, has its own detector, template,
            choice and margin, and its side becomes `aligned_px`.
        min_classes: the number of classes that must have pictures.
        workers: number of threads; None for one per core.
        progress: called with the number of finished pictures and the number of all.
    Raises:
        UserError: If the data can't be read, or has too few classes.
    """
    store = None
    if isinstance(data, Manifest):
        manifest = data
    else:
        path = Path(data)
        folder = path.parent if path.name == MANIFEST else path
        store = FaceStore.open(folder) if is_store(folder) else None
        manifest = read_manifest(path) if store is None else store.manifest
    made = manifest.contract
    if made is not None:
        alignment = {name: getattr(made, name) for name in ("detector", "template", "choice", "margin")}
        contract = replace(contract, **alignment, aligned_px=made.aligned_px or made.stored_px)
    if store is not None:
        pixels: np.ndarray = store.pixels
        if pixels.shape[1] != contract.stored_px:
            resized = _face_array(len(pixels), contract.stored_px)
            for row, face in enumerate(pixels):
                resized[row] = resize_square(face, contract.stored_px)
            pixels = resized
        dataset = Dataset(manifest, pixels, contract, store.skipped)
    else:
        dataset = _crop(manifest, contract, workers, progress)
    found = [name for name, count in dataset.manifest.counts.items() if count]
    if len(found) < min_classes:
        names = ", ".join(found) or "none"
        raise UserError(f"{manifest.name}: classes with pictures: {names}; expected {min_classes} or more")
    return dataset


def _crop(manifest: Manifest, contract: CropContract, workers: int | None, progress: Progress | None) -> Dataset:
    """Crop the faces of the manifest's pictures; what a face store centre-cropped is centre-cropped again."""
    centre_crop = "centre-crop" in set(manifest.table.get(FACE_COLUMN, ()))
    pixels = _face_array(len(manifest), contract.stored_px)
    rows: list[int] = []
    skipped: list[Skipped] = []
    results = crop_files(manifest.paths, contract, centre_crop=centre_crop, workers=workers)
    for row, (image, result) in enumerate(zip(manifest.table["image"], results, strict=True)):
        if result.crop is None:
            skipped.append(Skipped(str(image), result.reason))
        else:
            pixels[len(rows)] = result.crop
            rows.append(row)
        if progress:
            progress(row + 1, len(manifest))
    check_any(len(rows), skipped)
    return Dataset(manifest.rows(np.array(rows, np.int64)), pixels[: len(rows)], contract, skipped)


def _face_array(count: int, side_px: int) -> np.ndarray:
    """Return an array for faces, in memory or in a temporary file that disappears with the process.

    Raises:
        MemoryError: If there is no room.
    """
    shape = (count, side_px, side_px, 3)
    size = math.prod(shape)
    if size <= MAX_IN_MEMORY:
        return np.empty(shape, np.uint8)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the array needs it open
    try:
        if hasattr(os, "posix_fallocate"):  # writing to a mapped hole on a full disk would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "r+" if size <= os.fstat(file.fileno()).st_size else "w+", shape=shape)
    except (OSError, OverflowError) as error:
        folder = tempfile.gettempdir()
        raise MemoryError(f"{size / 1e6:,.0f} MB do not fit on the disk of {folder} ({error})") from None
