"""Predict expressions of faces in pictures with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import find_pictures
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import CropResult, Progress, crop_files, crop_picture
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
        frame = pd.DataFrame({"image": self.images, "predicted": self.labels})
        frame["probability"] = self.probabilities.max(axis=1) if len(self) else np.zeros(0, np.float32)
        columns = {f"p_{name}": self.probabilities[:, number] for number, name in enumerate(self.classes)}
        return pd.concat([frame, pd.DataFrame(columns)], axis=1)


class Recognizer:
    """A trained model that classifies pictures.

        recognizer = Recognizer.load("runs/mine/model")
        print(recognizer.predict(["face.jpg"]).table())

    Attributes:
        model: the module, RGB crops (B, 3, H, W) in 0..255 -> class scores (B, K).
        classes: class names in the order of the scores.
        contract: how a picture becomes a crop.
        metadata: recipe, method and origin of the model.
    """

    def __init__(self, model: Model, device: str | torch.device = "cpu") -> None:
        self.device = _usable(device)
        self.model: nn.Module = model.module.to(self.device).eval()
        self.classes = model.classes
        self.contract: CropContract = model.contract
        self.metadata: dict[str, Any] = model.metadata

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Recognizer:
        """Load a model folder, or the only model in a run folder.

        Raises:
            UserError: If there is no model, a file is damaged, or PyTorch can't use the device.
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
        probabilities: list[np.ndarray] = []
        crops: list[np.ndarray] = []

        def classify() -> None:
            side = self.contract.stored_px
            pixels = np.array(crops, np.uint8).reshape(-1, side, side, 3)
            probabilities.append(class_probabilities(self.model, pixels, self.contract.crop_px, self.device))
            crops.clear()

        for number, result in enumerate(self._crops(pictures, centre_crop, workers)):
            name = str(number) if isinstance(pictures[number], np.ndarray) else str(pictures[number])
            if result.crop is None:
                skipped.append(Skipped(name, result.reason))
            else:
                names.append(name)
                crops.append(result.crop)
            if len(crops) == BATCH:
                classify()
            if progress:
                progress(number + 1, len(pictures))
        if crops or not names:
            classify()
        return Predictions(names, self.classes, np.concatenate(probabilities), skipped)

    def _crops(
        self, pictures: Sequence[Picture], centre_crop: bool, workers: int | None
    ) -> Iterator[CropResult]:
        arrays = [isinstance(picture, np.ndarray) for picture in pictures]
        if not any(arrays):
            paths = [Path(str(picture)) for picture in pictures]
            return crop_files(paths, self.contract, centre_crop=centre_crop, workers=workers)
        if not all(arrays):
            raise UserError("expected either paths or arrays, got both")
        return (
            crop_picture(_checked(picture), self.contract, centre_crop=centre_crop) for picture in pictures
        )


def _listed(images: Picture | Iterable[Picture]) -> list[Picture]:
    """The single pictures: folders give their files, an array (N, H, W, 3) gives N."""
    given: list[Picture] = [images] if isinstance(images, str | Path | np.ndarray) else list(images)
    if len(given) == 1 and isinstance(given[0], np.ndarray) and given[0].ndim == 4:
        return list(given[0])
    pictures: list[Picture] = []
    for picture in given:
        if isinstance(picture, np.ndarray):
            pictures.append(picture)
        elif Path(picture).is_dir():
            found = find_pictures(Path(picture))
            if not found:
                raise UserError(f"{picture}: no pictures in this folder")
            pictures.extend(found)
        elif Path(picture).exists():
            pictures.append(Path(picture))
        else:
            raise UserError(f"{picture}: there is no such picture or folder")
    return pictures


def _usable(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device is '{device}', but PyTorch can't use it here ({reason}); use cpu") from None


def _checked(picture: Any) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UserError(f"expected a picture (H, W, 3) uint8 RGB, got {tuple(picture.shape)} {picture.dtype}")
    return np.asarray(picture)
