"""Temperature scaling: divide the class scores by one number, so that confidences fit the accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from torch import nn

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.evaluate import choose_part, load_labelled
from facenet2expnet.experiment.metrics import CALIBRATION_SCORES, scores_of
from facenet2expnet.experiment.significance import Floats, Ints
from facenet2expnet.files import check_writable
from facenet2expnet.nets.classifier import divide_scores
from facenet2expnet.predict.model_folder import CARD, Model, find_model, locate_model, on_hub, save_model
from facenet2expnet.predict.onnx_model import is_onnx
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.scores import class_scores

COLDEST, HOTTEST = 0.05, 20.0
"""The range of temperatures; a network whose scores carry no information gets the hottest: all classes alike."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """The result of `calibrate`.

    Attributes:
        folder: the model folder that was written.
        temperature: what the scores were divided by.
        pictures: number of pictures that it was fitted on.
        before, after: negative_log_likelihood and expected_calibration_error on these pictures.
        skipped: the pictures left out, each with its reason.
        notes: plain sentences on the part of the data that was taken.
    """

    folder: Path
    temperature: float
    pictures: int
    before: dict[str, float]
    after: dict[str, float]
    skipped: list[Skipped]
    notes: list[str]


def calibrate(
    model: str | Path,
    data: str | Path | Manifest | pd.DataFrame,
    *,
    out: str | Path | None = None,
    part: str = "auto",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Fit a model's temperature on labelled pictures and save the model with its scores divided by it.

    The predicted classes stay the same. The pictures must be new to the model: it is nearly always right on its
    training pictures, and a temperature fitted there makes it overconfident. `metadata["calibration"]` of the saved
    model holds the temperature (the product of all so far), the number of pictures and their part, and the scores
    before and after.

    Args:
        model, data, device, progress: as in `evaluate`.
        out: the new model folder; None to change the model in place.
        part: of data with parts: "train", "valid", "test" or "all"; "auto" for valid if there is one, else all without
            test, so that `evaluate` can test the model on the part test.
    Raises:
        UserError: If the model's run was made from this data, `out` holds a model or is missing for a model of the hub
            or the package, or as `evaluate` does.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """
    if is_onnx(model):
        raise UserError(f"{model}: an ONNX file can't be calibrated; calibrate the model folder and export it again")
    if out is None and (on_hub(model) or locate_model(model) != Path(model)):
        raise UserError(
            f"{model}: a model of the hub or the package can't be changed in place; give --out a new folder"
        )
    folder = find_model(Path(model)) if out is None else Path(out)
    if out is not None and (folder / CARD).exists():
        raise UserError(f"{folder}: there is a model already; give --out a new folder")
    check_writable(folder / CARD)
    recognizer = Recognizer.load(model, device)
    assert isinstance(recognizer.model, nn.Module)
    dataset, labelled, of_training = load_labelled(recognizer, data, progress)
    if of_training:
        raise UserError(
            f"{dataset.manifest.name}: the model's run was made from these pictures, and a temperature fitted on "
            "training pictures makes a model overconfident; give labelled pictures of other people"
        )
    labelled, part, notes = choose_part(dataset.manifest, labelled, part, fitting=True)
    crop_px = recognizer.contract.crop_px
    found = class_scores(recognizer.model, dataset.pixels, crop_px, recognizer.device, rows=labelled)
    scores = found.astype(np.float64)
    truth = np.array([recognizer.classes.index(name) for name in dataset.manifest.table["label"].iloc[labelled]])
    temperature = fit_temperature(scores, truth)
    before, after = _log_loss_and_error(scores, truth), _log_loss_and_error(scores / temperature, truth)
    divide_scores(recognizer.model, temperature)
    earlier = recognizer.metadata.get("calibration", {}).get("temperature", 1.0)
    record = {"temperature": earlier * temperature, "pictures": len(scores), "part": part}
    record |= {"before": before, "after": after}
    metadata = {**recognizer.metadata, "calibration": record}
    save_model(Model(recognizer.model.cpu(), recognizer.classes, recognizer.contract, metadata), folder)
    return Calibration(folder, temperature, len(scores), before, after, dataset.skipped, notes)


def _log_loss_and_error(scores: Floats, truth: Ints) -> dict[str, float]:
    found = scores_of(softmax(scores, axis=1), scores.argmax(axis=1), truth)
    return {name: found[name] for name in CALIBRATION_SCORES}


def fit_temperature(scores: Floats, truth: Ints) -> float:
    """Find the temperature T that minimises the mean of -log softmax(scores / T)[truth].

    The mean is convex in 1 / T, so there is one minimum. Where every truth has the highest score it lies at T = 0;
    the scores then stay as they are.

    Args:
        scores: (N, K) class scores before softmax, of pictures that the network was not trained on.
        truth: (N,) class numbers.
    Returns:
        A value from `COLDEST` to `HOTTEST`; 1 where every truth has the highest score, or without pictures.
    Raises:
        ValueError: If the shapes do not fit, or a score is not finite.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(f"expected scores (N, K) and truth (N,), got shapes {scores.shape} and {truth.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got one that is not")
    right = scores[np.arange(len(truth)), truth]
    if (right >= scores.max(axis=1, initial=-np.inf)).all():
        return 1.0

    def log_loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        return float((logsumexp(scores * factor, axis=1) - right * factor).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    found = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
