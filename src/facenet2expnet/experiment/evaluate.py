"""Evaluate a finished model on labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.audit import audit
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.labels import nearest
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.scores import Classifier

LISTED = 5
"""Skipped pictures that the notes name."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a model on a dataset.

    Attributes:
        predictions: one row per picture: image, subject where known, fold, method, seed, truth, predicted, p_<class>.
        metrics: the result of `metrics.summarise`.
        notes: plain sentences on skipped pictures, copies, and pictures that the model was trained on.
        skipped: the pictures left out, each with its reason.
    """

    predictions: pd.DataFrame
    metrics: dict[str, Any]
    notes: list[str]
    skipped: list[Skipped]


def evaluate(
    model: str | Path,
    data: str | Path | Manifest,
    *,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on labelled pictures; those without a label are left out.

        print(evaluate("runs/mine", "faces/").metrics["methods"]["fn2en"]["mean"])

    Args:
        model: a model folder, a run folder with one model, or an ONNX file of `fn2en export`.
        data: a folder of class folders, a manifest file, a face store, or a manifest.
        device: "auto", "cpu", "cuda" or "mps".
        progress: called with the number of pictures read and of all pictures.
    Raises:
        UserError: If the data can't be read, has no labelled picture, or has a class that the model does not know.
    """
    recognizer = Recognizer.load(model, device)
    dataset, labelled, of_training = load_labelled(recognizer, data, progress)
    predictions = predict_table(
        recognizer.probabilities, dataset, labelled, recognizer.classes, fold="all",
        method=recognizer.metadata.get("method", "model"),
        seed=recognizer.metadata.get("trained_on", {}).get("seed", 0),
    )  # fmt: skip
    notes = [f"left out: {skipped.image}: {skipped.reason}" for skipped in dataset.skipped[:LISTED]]
    if len(dataset.skipped) > LISTED:
        notes.append(f"... and {len(dataset.skipped) - LISTED} more were left out")
    found = audit(dataset.manifest, dataset.pixels, cheap=True)
    notes += [f"Audit: {line}" for line in found.lines()] if found.counts["identical_pictures"] else []
    contracts = (dataset.contract, recognizer.contract)
    faces, trained = (replace(crop, aligned_px=crop.aligned_px or crop.stored_px) for crop in contracts)
    if faces != trained:
        notes.append(
            "This face store was cropped in another way than the faces that the model was trained on, "
            "so the scores may differ from those of its original pictures."
        )
    if of_training:
        notes.append(
            "The model's run was made from these pictures: those of its training part are among them, "
            "so the accuracy is too high for new people."
        )
    return Evaluation(predictions, summarise(predictions, recognizer.classes), notes, dataset.skipped)


def predict_table(
    classify: Classifier, dataset: Dataset, rows: np.ndarray, classes: Sequence[str], **what: Any
) -> pd.DataFrame:
    """Predict labelled rows of a dataset: image, subject if known, `what` it is, truth, predicted, p_<class>."""
    probabilities = classify(dataset.pixels, rows=rows)
    table = dataset.manifest.table.iloc[rows]
    known = ["image"] if dataset.manifest.subjects is None else ["image", "subject"]
    columns = {name: table[name].to_numpy() for name in known} | what | {"truth": table["label"].to_numpy()}
    columns["predicted"] = np.array(classes, dtype=object)[probabilities.argmax(axis=1)]
    return pd.DataFrame(columns | {f"p_{name}": probabilities[:, number] for number, name in enumerate(classes)})


def load_labelled(
    recognizer: Recognizer, data: str | Path | Manifest, progress: Callable[[int, int], None] | None = None
) -> tuple[Dataset, np.ndarray, bool]:
    """Load pictures for a model; see `evaluate`.

    Returns:
        The dataset, its rows with a label, and whether the model's run was made from this data.
    """
    if not isinstance(data, Manifest) and Path(data).suffix.lower() in (".csv", ".parquet"):
        data = read_manifest(Path(data), classes=recognizer.classes)
    dataset = load_dataset(data, recognizer.contract, min_classes=1, progress=progress)
    trained_on = recognizer.metadata.get("trained_on", {})
    of_training = trained_on.get("sha256") == dataset.manifest.sha256()
    if of_training and "pixels" in trained_on:  # other pictures may have the same names and labels
        of_training = trained_on["pixels"] == dataset.pixels_sha256()
    unknown = [name for name, count in dataset.manifest.counts.items() if count and name not in recognizer.classes]
    if unknown:
        close = nearest(unknown[0], recognizer.classes)
        guess = f"; did you mean '{close}'?" if close else ""
        known = ", ".join(recognizer.classes)
        raise UserError(f"{dataset.manifest.name}: class '{unknown[0]}' is not one of the model's: {known}{guess}")
    return dataset, np.flatnonzero(dataset.manifest.labels >= 0), of_training
