"""Predict expressions of faces in pictures with a trained model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facenet2expnet.data.manifest import find_pictures
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.device import choose_device
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import Progress, crop_files
from facenet2expnet.predict.model_folder import Model, load_model
from facenet2expnet.predict.scores import BATCH, class_probabilities

Picture = str | Path | np.ndarray


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities of pictures.

    Attributes:
        images: names of the classified pictures: their paths, or their numbers for arrays.
        classes: class names, K.
        probabilities: (N, K) float32, rows sum to 1.
        skipped: the pictures that were not classified, each with the reason.
    """

    images: list[str]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    skipped: list[Skipped]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> list[str]:
        """The most probable class of every picture."""
        return [self.classes[number] for number in self.probabilities.argmax(axis=1)]

    def table(self) -> pd.DataFrame:
        """One row per picture: image, predicted, probability, and a column `p_<class>` for every class."""
        columns = {f"p_{name}": self.probabilities[:, number] for number, name in enumerate(self.classes)}
        probability = self.probabilities.max(axis=1, initial=0.0)
        return pd.DataFrame({"image": self.images, "predicted": self.labels, "probability": probability, **columns})


class Recognizer:
    """A trained model that classifies pictures.

        recognizer = Recognizer.load("runs/mine/model")
        print(recognizer.predict(["face.jpg"]).table())

    Attributes:
        model: the module, RGB crops (B, 3, H, W) in 0..255 -> class scores (B, K).
        classes, contract, metadata: see `Model`.
    """

    def __init__(self, model: Model, device: str | torch.device = "auto") -> None:
        self.device = device if isinstance(device, torch.device) else choose_device(device)
        self.model = model.module.to(self.device).eval()
        self.classes = model.classes
        self.contract = model.contract
        self.metadata = model.metadata

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> Recognizer:
        """Load a model folder, or the only model in a run folder, onto "auto", "cpu", "cuda", "mps" or a torch.device.

        Raises:
            UserError: If there is no model, a file is damaged, or there is no such device.
        """
        return cls(load_model(Path(path)), device)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        centre_crop: bool = False,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> Predictions:
        """Classify pictures; only one batch of crops is in memory at a time.

        Args:
            images: paths, folders (all pictures in and below them) or arrays (H, W, 3) uint8 RGB; one or many.
            centre_crop: use the centre square of a picture without a found face, instead of skipping it.
            workers: number of threads that decode and align; None for one per core.
            progress: called with the number of finished pictures and the number of all.
        Raises:
            UserError: If a path does not exist, a folder has no pictures, or a package is not installed. Pictures
                that can't be read are listed in `skipped`.
        """
        pictures = _listed(images)
        names: list[str] = []
        skipped: list[Skipped] = []
        probabilities = [np.zeros((0, len(self.classes)), np.float32)]
        batch = np.empty((BATCH, self.contract.stored_px, self.contract.stored_px, 3), np.uint8)
        filled = 0
        results = crop_files(pictures, self.contract, centre_crop=centre_crop, workers=workers)
        for number, (picture, result) in enumerate(zip(pictures, results, strict=True)):
            name = str(number) if isinstance(picture, np.ndarray) else str(picture)
            if result.crop is None:
                skipped.append(Skipped(name, result.reason))
            else:
                names.append(name)
                batch[filled] = result.crop
                filled += 1
            if filled and (filled == BATCH or number + 1 == len(pictures)):
                of_batch = class_probabilities(self.model, batch[:filled], self.contract.crop_px, self.device)
                probabilities.append(of_batch)
                filled = 0
            if progress:
                progress(number + 1, len(pictures))
        return Predictions(names, self.classes, np.concatenate(probabilities), skipped)


def _listed(images: Picture | Iterable[Picture]) -> list[Path | np.ndarray]:
    """The single pictures: a folder gives its files, an array (N, H, W, 3) gives N arrays."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    pictures: list[Path | np.ndarray] = []
    for picture in [images] if isinstance(images, str | Path | np.ndarray) else images:
        if isinstance(picture, np.ndarray):
            if picture.shape[2:] != (3,) or picture.dtype != np.uint8 or not picture.size:
                raise UserError(f"expected a picture (H, W, 3) uint8 RGB, got {picture.shape} {picture.dtype}")
            pictures.append(picture)
        elif Path(picture).is_dir():
            files = find_pictures(Path(picture))
            if not files:
                raise UserError(f"{picture}: no pictures in this folder")
            pictures.extend(files)
        elif Path(picture).exists():
            pictures.append(Path(picture))
        else:
            raise UserError(f"{picture}: there is no such picture or folder")
    return pictures
