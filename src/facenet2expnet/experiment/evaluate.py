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
from facenet2expnet.data.manifest import Manifest, as_data, read_manifest
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.data.table import SPLITS
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
    data: str | Path | Manifest | pd.DataFrame,
    *,
    part: str = "auto",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on labelled pictures; those without a label are left out.

        print(evaluate("runs/mine", "faces/").metrics["methods"]["fn2en"]["mean"])

    Args:
        model: a model folder, a run folder with one model, or an ONNX file of `fn2en export`.
        data: a folder of class folders, a manifest file, a face store, a manifest, or a DataFrame with
            the columns image,label.
        part: of data with a column or folders of parts: "train", "valid", "test" or "all"; "auto" for test if there is
            one, else valid, else all.
        device: "auto", "cpu", "cuda" or "mps".
        progress: called with the number of pictures read and of all pictures.
    Raises:
        UserError: If the data can't be read, has no labelled picture, or has a class that the model does not know.
    """
    recognizer = Recognizer.load(model, device)
    dataset, labelled, of_training = load_labelled(recognizer, data, progress)
    labelled, part, part_notes = choose_part(dataset.manifest, labelled, part)
    predictions = predict_table(
        recognizer.probabilities, dataset, labelled, recognizer.classes, fold="all",
        method=recognizer.metadata.get("method", "model"),
        seed=recognizer.metadata.get("trained_on", {}).get("seed", 0),
    )  # fmt: skip
    notes = [*dataset.manifest.notes, *part_notes]
    notes += [f"left out: {skipped.image}: {skipped.reason}" for skipped in dataset.skipped[:LISTED]]
    if len(dataset.skipped) > LISTED:
        notes.append(f"... and {len(dataset.skipped) - LISTED} more were left out")
    found = audit(dataset.manifest, dataset.pixels, cheap=True)
    notes += (
        [f"Audit: {line}" for line in found.lines()]
        if found.counts["identical_pictures"] + found.counts["blank"]
        else []
    )
    contracts = (dataset.contract, recognizer.contract)
    faces, trained = (replace(crop, aligned_px=crop.aligned_px or crop.stored_px) for crop in contracts)
    if faces != trained:
        notes.append(
            "This face store was cropped in another way than the faces that the model was trained on, "
            "so the scores may differ from those of its original pictures."
        )
    if of_training and part == "test" and recognizer.metadata.get("protocol") == "split":
        notes.append("The model's run was made from this data; it kept the test part out of the training.")
    elif of_training:
        notes.append(
            "The model's run was made from these pictures: those of its training part are among them, "
            "so the accuracy is too high for new people."
        )
    return Evaluation(predictions, summarise(predictions, recognizer.classes), notes, dataset.skipped)


def choose_part(
    manifest: Manifest, labelled: np.ndarray, part: str, *, fitting: bool = False
) -> tuple[np.ndarray, str, list[str]]:
    """Choose the rows of a part of a set: the rows, the name of the part, and sentences on what was taken.

    Args:
        labelled: the rows to choose from.
        part: as for `evaluate`.
        fitting: whether something is fitted on the pictures; auto is then valid, else all without test.
    Raises:
        UserError: If there is no such part, or it has no picture with a label.
    """
    if part not in ("auto", "all", *SPLITS):
        raise UserError(f"part is '{part}', expected auto, all, {', '.join(SPLITS)}")
    column = manifest.table.get("split", pd.Series("", index=manifest.table.index)).iloc[labelled]
    counts = {name: int((column == name).sum()) for name in SPLITS}
    if part == "auto" and fitting and counts["test"] and not counts["valid"]:
        if counts["test"] == len(labelled):
            raise UserError(
                f"{manifest.name} has test pictures only, {len(labelled)} with a label, and what is fitted on them "
                "can't be tested on them; give other pictures, or choose --part test"
            )
        note = f"Used all pictures except the {counts['test']} of the test part. Choose other parts with --part."
        return labelled[(column != "test").to_numpy()], "all without test", [note]
    if part == "auto":
        part = next((name for name in (("valid",) if fitting else ("test", "valid")) if counts[name]), "all")
    if part == "all":
        parts = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        return labelled, part, [f"Used all parts: {parts}."] if parts else []
    if not counts[part]:
        has = ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "no parts"
        raise UserError(f"{manifest.name} has no labelled picture of the part {part}; it has {has}")
    others = ", ".join(f"{name} {count}" for name, count in counts.items() if count and name != part) or "none"
    note = f"Used the {part} part, {counts[part]} pictures; left out: {others}. Choose other parts with --part."
    return labelled[(column == part).to_numpy()], part, [note]


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
    recognizer: Recognizer,
    data: str | Path | Manifest | pd.DataFrame,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, np.ndarray, bool]:
    """Load pictures for a model; see `evaluate`.

    Returns:
        The dataset, its rows with a label, and whether the model's run was made from this data.
    """
    data = as_data(data)
    if not isinstance(data, Manifest) and data.suffix.lower() in (".csv", ".parquet"):
        data = read_manifest(data, classes=recognizer.classes)
    dataset = load_dataset(data, recognizer.contract, min_classes=1, progress=progress)
    trained_on = recognizer.metadata.get("trained_on", {})
    of_training = trained_on.get("sha256") == dataset.manifest.sha256()
    if of_training and "pixels" in trained_on:  # other pictures may have the same names and labels
        of_training = trained_on["pixels"] == dataset.pixels_sha256()
    dataset = replace(dataset, manifest=_with_spelling_of(dataset.manifest, recognizer.classes))
    unknown = [name for name, count in dataset.manifest.counts.items() if count and name not in recognizer.classes]
    if unknown:
        close = nearest(unknown[0], recognizer.classes)
        guess = f"; did you mean '{close}'?" if close else ""
        known = ", ".join(recognizer.classes)
        raise UserError(f"{dataset.manifest.name}: class '{unknown[0]}' is not one of the model's: {known}{guess}")
    return dataset, np.flatnonzero(dataset.manifest.labels >= 0), of_training


def _with_spelling_of(manifest: Manifest, classes: Sequence[str]) -> Manifest:
    """The manifest with classes spelt as the model's, where only upper and lower case differ."""
    own = {name.casefold(): name for name in classes}
    renamed = {name: own.get(name.casefold(), name) for name in manifest.classes}
    if all(old == new for old, new in renamed.items()) or len(set(renamed.values())) < len(renamed):
        return manifest
    labels = manifest.table["label"].replace(renamed)
    return replace(manifest, table=manifest.table.assign(label=labels), classes=tuple(renamed.values()))
