"""A finished model against labelled pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.audit import audit
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.labels import nearest
from facenet2expnet.predict.recognizer import Recognizer, class_probabilities

SHOWN = 5
"""Pictures left out that the notes name."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model scored.

    Attributes:
        predictions: one row a picture: image, subject where known, fold, method, seed, truth, predicted, p_<class>.
        metrics: what `metrics.summarise` gives.
        notes: plain sentences on what was left out and on pictures that the model was trained on.
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
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Test a model on labelled pictures.

        print(evaluate("runs/mine", "faces/").metrics["methods"]["fn2en"]["mean"])

    Args:
        model: a model folder, or a run folder with one model.
        data: a folder of class folders, a manifest file, a face store, or a manifest.
        device: "cpu" or "cuda".
        progress: called with how many pictures are read and how many there are.
    Raises:
        UserError: If the data has a class that the model does not know.
    """
    recognizer = Recognizer.load(model, device)
    if not isinstance(data, Manifest) and Path(data).suffix.lower() in (".csv", ".parquet"):
        data = read_manifest(Path(data), classes=recognizer.classes)
    dataset = load_dataset(data, recognizer.contract, least_classes=1, progress=progress)
    manifest = dataset.manifest
    unknown = [name for name, count in manifest.counts.items() if count and name not in recognizer.classes]
    if unknown:
        close = nearest(unknown[0], recognizer.classes)
        guess = f"; did you mean '{close}'?" if close else ""
        raise UserError(
            f"{manifest.name}: class '{unknown[0]}' is not one of the model's: {', '.join(recognizer.classes)}{guess}"
        )
    probabilities = class_probabilities(
        recognizer.model, dataset.pixels, recognizer.contract.crop_px, recognizer.device
    )
    columns: dict[str, Any] = {"image": manifest.table["image"].to_numpy()}
    if manifest.subjects is not None:
        columns["subject"] = manifest.table["subject"].to_numpy()
    columns |= {
        "fold": "all",
        "method": recognizer.metadata.get("method", "model"),
        "seed": recognizer.metadata.get("trained_on", {}).get("seed", 0),
        "truth": manifest.table["label"].to_numpy(),
        "predicted": np.array(recognizer.classes, dtype=object)[probabilities.argmax(axis=1)],
    }
    columns |= {f"p_{name}": probabilities[:, number] for number, name in enumerate(recognizer.classes)}
    predictions = pd.DataFrame(columns)
    notes = [f"left out: {skipped.image}: {skipped.reason}" for skipped in dataset.skipped[:SHOWN]]
    if len(dataset.skipped) > SHOWN:
        notes.append(f"... and {len(dataset.skipped) - SHOWN} more were left out")
    found = audit(manifest, dataset.pixels, cheap=True)
    notes += [f"Audit: {line}" for line in found.lines()] if found.counts["exact_groups"] else []
    trained_on = recognizer.metadata.get("trained_on", {})
    if trained_on.get("sha256") == manifest.sha256():
        notes.append(
            "These are the pictures that the model's run was made from: those of its training part are among them, "
            "so the accuracy is too high for new people."
        )
    return Evaluation(predictions, summarise(predictions, recognizer.classes), notes, dataset.skipped)
