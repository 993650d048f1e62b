"""A finished model at work: pictures in, a table of classes and probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import find_pictures
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import crop_files, crop_picture
from facenet2expnet.predict.model_folder import Model, load_model

BATCH = 64

Picture = str | Path | np.ndarray
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of some pictures.

    Attributes:
        images: the names of the pictures that could be used: their paths, or their number for arrays.
        classes: class names, K.
        probabilities: (N, K) float32, rows sum to 1.
        skipped: the pictures that could not be used, each with the reason.
    """

    images: list[str]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    skipped: list[Skipped]

    def __post_init__(self) -> None:
        expected = (len(self.images), len(self.classes))
        if self.probabilities.shape != expected:
            raise ValueError(f"probabilities are {self.probabilities.shape}, expected {expected}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> list[str]:
        """The most probable class of every picture."""
        return [self.classes[number] for number in self.probabilities.argmax(axis=1)]

    def table(self) -> pd.DataFrame:
        """One row a picture: image, predicted, probability, and a column `p_<class>` for every class."""
        frame = pd.DataFrame({"image": self.images, "predicted": self.labels})
        frame["probability"] = self.probabilities.max(axis=1) if len(self) else np.zeros(0, np.float32)
        columns = {f"p_{name}": self.probabilities[:, number] for number, name in enumerate(self.classes)}
        return pd.concat([frame, pd.DataFrame(columns)], axis=1)


class Recognizer:
    """A trained model with everything needed to use it.

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
            UserError: If there is no model there, a file is damaged, or the device is not there.
        """
        return cls(load_model(Path(path)), device)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        missing: str = "drop",
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> Predictions:
        """Classify pictures.

        Args:
            images: paths, folders (their pictures, at any depth) or arrays (H, W, 3) uint8 RGB; one or many.
            missing: where the contract looks for a face and none is found: "drop" or "centre-crop".
            workers: threads that decode and align; None for one a core.
            progress: called with how many pictures are done and how many there are.
        Raises:
            UserError: If a path does not exist or a folder holds no picture. Pictures that can't be read are
                no error: they are listed in `skipped`.
        """
        pictures = _listed(images)
        names, crops, skipped = [], [], []
        for number, ready in enumerate(self._ready(pictures, missing, workers)):
            name = str(pictures[number]) if not isinstance(pictures[number], np.ndarray) else str(number)
            if ready.crop is None:
                skipped.append(Skipped(name, ready.reason))
            else:
                names.append(name)
                crops.append(ready.crop)
            if progress:
                progress(number + 1, len(pictures))
        side = self.contract.stored_px
        pixels = np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)
        probabilities = class_probabilities(self.model, pixels, self.contract.crop_px, self.device)
        return Predictions(names, self.classes, probabilities, skipped)

    def _ready(self, pictures: Sequence[Picture], missing: str, workers: int | None) -> Iterable[Any]:
        arrays = [isinstance(picture, np.ndarray) for picture in pictures]
        if not any(arrays):
            paths = [Path(str(picture)) for picture in pictures]
            return crop_files(paths, self.contract, missing=missing, workers=workers)
        if not all(arrays):
            raise UserError("expected either paths or arrays, got both")
        return (crop_picture(_checked(picture), self.contract, missing=missing) for picture in pictures)


def class_probabilities(
    model: nn.Module, pixels: np.ndarray, crop_px: int, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Class probabilities of the one centre crop of every stored face (FN2EN, section IV-A); see `class_scores`."""
    scores = torch.from_numpy(class_scores(model, pixels, crop_px, device))
    return scores.softmax(dim=1).numpy()


@torch.inference_mode()
def class_scores(
    model: nn.Module, pixels: np.ndarray, crop_px: int, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Class scores before softmax of the one centre crop of every stored face.

    Args:
        model: in evaluation mode, RGB crops in 0..255 -> class scores.
        pixels: (N, S, S, 3) uint8 RGB.
        crop_px: side of the centre crop.
    Returns:
        (N, K) float32.
    """
    start = (pixels.shape[1] - crop_px) // 2
    window = slice(start, start + crop_px)
    found = []
    for first in range(0, max(1, len(pixels)), BATCH):
        batch = np.ascontiguousarray(pixels[first : first + BATCH, window, window])
        crops: Tensor = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float()
        found.append(model(crops).float().cpu().numpy())
    return np.concatenate(found)


def _listed(images: Picture | Iterable[Picture]) -> list[Picture]:
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
                raise UserError(f"{picture}: no picture in this folder")
            pictures.extend(found)
        elif Path(picture).exists():
            pictures.append(Path(picture))
        else:
            raise UserError(f"{picture}: there is no such picture or folder")
    return pictures


def _usable(device: str | torch.device) -> torch.device:
    """The device, or a UserError where PyTorch can't compute on it."""
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device is '{device}', expected one that PyTorch has here ({reason}); use cpu"
        ) from None


def _checked(picture: Any) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise UserError(f"expected a picture (H, W, 3) uint8 RGB, got {tuple(picture.shape)} {picture.dtype}")
    return np.asarray(picture)
