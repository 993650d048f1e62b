"""Real faces on which an exported model is compared with PyTorch, and int8 is calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import Progress
from facenet2expnet.faces.store import is_store

MOST = 1000
"""Faces that are used at most: a random sample of a larger set, always the same one."""

CALIBRATION = 300
"""Faces that int8 is calibrated on at most; never more than half of them."""

SAMPLE_NAME = "the bundled sample"


@dataclass(frozen=True, eq=False)
class Faces:
    """Stored faces with what is known of them.

    Attributes:
        name: the name of the data.
        pixels: (N, stored_px, stored_px, 3) uint8 RGB.
        labels: (N,) int64 class numbers of the model; -1 without a label, or with a class that the model has not.
        groups: (N,) int64 numbers of what must stay together: the subject, else the sequence, else the face itself.
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def rows(self, rows: np.ndarray) -> Faces:
        """Select rows by their numbers or by a mask."""
        return Faces(self.name, self.pixels[rows], self.labels[rows], self.groups[rows])

    def split(self) -> tuple[Faces, Faces]:
        """Split into faces to calibrate on and faces to measure on; no group is on both sides.

        Raises:
            UserError: If there is one group only.
        """
        wanted = min(CALIBRATION, len(self) // 2)
        order = np.random.default_rng(0).permutation(np.unique(self.groups))
        sizes = np.array([np.count_nonzero(self.groups == group) for group in order])
        count = max(1, int(np.searchsorted(sizes.cumsum(), wanted, side="right")))
        if count >= len(order):
            raise UserError(
                f"{self.name}: {len(self)} faces of one person; expected faces of two or more, some to calibrate on "
                "and others to measure on; give other faces with --data"
            )
        calibration = np.isin(self.groups, order[:count])
        return self.rows(calibration), self.rows(~calibration)


def load_faces(
    data: str | Path | None,
    classes: tuple[str, ...],
    contract: CropContract,
    *,
    most: int = MOST,
    progress: Progress | None = None,
) -> Faces:
    """Load faces as a model sees them, cropped by its own contract.

    Args:
        data: a folder of class folders, a manifest file or a face store; None for the bundled sample.
        classes: the model's; labels are matched by name.
        contract: the model's.
        most: a larger set gives a random sample of this size.
        progress: called with the number of finished pictures and the number of all.
    Raises:
        UserError: If the data can't be read.
    """
    path = sample_folder() / "manifest.csv" if data is None else Path(data)
    source: Path | Manifest = path
    store = is_store(path.parent if path.is_file() else path)
    if not store:
        source = read_manifest(path)
        source = source.rows(_sample(len(source), most))
    dataset = load_dataset(source, contract, min_classes=0, progress=progress)
    rows = _sample(len(dataset.manifest), most)
    chosen = dataset.manifest.rows(rows)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(name, -1) for name in chosen.table["label"]], np.int64)
    name = SAMPLE_NAME if data is None else chosen.name
    return Faces(name, np.array(dataset.pixels[rows]), labels, chosen.groups)


def _sample(count: int, most: int) -> np.ndarray:
    """Row numbers of a random sample, in order; the same for the same arguments."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
