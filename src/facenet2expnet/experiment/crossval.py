"""Every method on every fold with the same splits and seeds; the test part is read once, at the end of each."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning_fabric import Fabric
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.protocols import inner_split
from facenet2expnet.data.writing import write_whole
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.material import Material
from facenet2expnet.experiment.reporter import Reporter, Training
from facenet2expnet.learning.loop import EpochRecord
from facenet2expnet.learning.stages import Setting, fine_tune, fn2en, from_scratch
from facenet2expnet.learning.teacher import TrainingPart
from facenet2expnet.nets.classifier import divide_scores
from facenet2expnet.recipe import Recipe
from facenet2expnet.recognize.model_folder import Model, save_model
from facenet2expnet.recognize.recognizer import class_probabilities, class_scores

METHODS = ("scratch", "fine-tune", "fn2en")
"""The paper's two baselines and its method, in the order of its tables."""


@dataclass(frozen=True, eq=False)
class Cut:
    """One cut of the material.

    Attributes:
        name: of the fold.
        train: rows to train on.
        test: rows to test on; empty where nothing is held out.
        inner: rows of the fold's training part that no stage trains on; empty unless the recipe asks for some.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    inner: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Job:
    """One training that a run has to do.

    Attributes:
        cut: what it trains and tests on.
        training: what is told of it.
        folder: where it leaves its files.
        teacher_folder: of the same cut's and seed's fine-tuned face net.
    """

    cut: Cut
    training: Training
    folder: Path
    teacher_folder: Path


def plan(
    cuts: Sequence[Cut], methods: Sequence[str], seeds: Sequence[int], recipe: Recipe, run: Path
) -> list[Job]:
    """The trainings of a run in their order: seed by seed, fold by fold, method by method.

    FN2EN needs the fine-tuned face net, so that "fine-tune" comes with it and before it.
    """
    wanted = [m for m in METHODS if m in methods or (m == "fine-tune" and "fn2en" in methods)]
    jobs: list[Job] = []
    total = len(seeds) * len(cuts) * len(wanted)
    for seed in seeds:
        for cut in cuts:
            folder = (run / f"seed-{seed}" if len(seeds) > 1 else run) / cut.name
            for method in wanted:
                training = Training(
                    method, cut.name, seed, len(jobs) + 1, total, len(cut.train), _epochs(method, recipe)
                )
                jobs.append(Job(cut, training, folder / method, folder / "fine-tune"))
    return jobs


def with_inner(cut: Cut, manifest: Manifest, share: float) -> Cut:
    """Take a share of the training rows out of it: whole subjects or sequences, the same for all methods and seeds.

    Raises:
        UserError: If there are fewer than two subjects (or pictures) to cut between.
    """
    if not share:
        return cut
    train, inner = inner_split(manifest, cut.train, share, seed=0)
    return dataclasses.replace(cut, train=train, inner=inner)


def check_subjects(recipe: Recipe, methods: Sequence[str], cuts: Sequence[Cut], manifest: Manifest) -> None:
    """Refuse an identity-adversarial head where there are no persons to tell apart.

    Raises:
        UserError: If a stage asks for one and a training part has fewer than two subjects.
    """
    weights = {
        "scratch": ("scratch", recipe.scratch.adversarial),
        "fn2en": ("stage2", recipe.stage2.adversarial),
    }
    asking = [
        f"{stage}.adversarial" for method, (stage, weight) in weights.items() if weight and method in methods
    ]
    if not asking:
        return
    subjects = manifest.subjects
    for cut in cuts:
        known = set() if subjects is None else set(subjects[cut.train]) - {""}
        if len(known) < 2:
            raise UserError(
                f"{asking[0]} is above 0, expected two subjects or more in every training part, got {len(known)} in "
                f"{cut.name}: fill the manifest's column subject, or set {asking[0]}=0"
            )


def run_job(
    job: Job, material: Material, recipe: Recipe, fabric: Fabric, reporter: Reporter, facts: dict[str, Any]
) -> None:
    """Train, save the model, test once, and leave predictions and history; nothing is done twice.

    Args:
        job: what to do; a job whose result is there is only told of again.
        material: the pictures.
        recipe: every number.
        fabric: device and precision.
        reporter: told of everything.
        facts: saved with the model.
    """
    done = job.folder / "result.json"
    reporter.begin(job.training)
    if done.is_file():
        _drop_views(job)
        reporter.end(job.training, json.loads(done.read_text())["accuracy"])
        return
    records: list[EpochRecord] = []
    shutil.rmtree(job.folder / "tensorboard", ignore_errors=True)
    with SummaryWriter(str(job.folder / "tensorboard")) as curves:

        def listen(record: EpochRecord) -> None:
            records.append(record)
            _draw(curves, record)
            reporter.epoch(job.training, record)

        setting = Setting(recipe, job.training.seed, fabric, listen, reporter.views)
        model = _train(job, material, setting)
    temperature = _calibrate(job, material, model, fabric)
    predictions = _test(job, material, model, fabric)
    if temperature is not None:
        predictions["temperature"] = temperature
    accuracy = None if predictions.empty else float((predictions["truth"] == predictions["predicted"]).mean())
    predictions.to_parquet(job.folder / "predictions.parquet", index=False)
    _history(job.training, records).to_csv(job.folder / "history.csv", index=False)
    trained_on = {**facts["trained_on"], "fold": job.cut.name, "seed": job.training.seed}
    trained_on["pictures"] = len(job.cut.train)
    origin = {
        **facts,
        "method": job.training.method,
        "trained_on": trained_on,
        "metrics": {"accuracy": accuracy},
    }
    if temperature is not None:
        origin["calibration"] = {"temperature": temperature, "pictures": len(job.cut.inner)}
    save_model(Model(model, material.manifest.classes, material.contract, origin), job.folder / "model")
    write_whole(done, json.dumps({"accuracy": accuracy, "pictures_tested": len(predictions)}).encode())
    _drop_views(job)
    reporter.end(job.training, accuracy)


def collect(jobs: Sequence[Job]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and history of all finished jobs, one table each."""
    tables = [pd.read_parquet(job.folder / "predictions.parquet") for job in jobs]
    histories = [pd.read_csv(job.folder / "history.csv", dtype={"fold": str}) for job in jobs]
    filled = [table for table in tables if len(table)]
    predictions = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return predictions, pd.concat(histories, ignore_index=True)


def _drop_views(job: Job) -> None:
    """The teacher's views serve one training and take much room."""
    for views in job.folder.glob("views-*"):
        views.unlink()


def _train(job: Job, material: Material, setting: Setting) -> nn.Module:
    rows, classes, device = job.cut.train, len(material.manifest.classes), setting.fabric.device
    labels, subjects = material.manifest.labels[rows], _subject_numbers(material.manifest, rows)
    part = TrainingPart(material.pixels[rows], labels, classes, device, subjects)
    if job.training.method == "scratch":
        return from_scratch(part, setting, job.folder)
    if job.training.method == "fine-tune":
        return fine_tune(part, setting, job.folder)
    teacher = fine_tune(part, dataclasses.replace(setting, listener=None), job.teacher_folder)
    extra = _unlabelled(job, material)
    if len(extra):
        pixels, blank = np.concatenate([part.pixels, extra]), np.full(len(extra), -1)
        subjects = None if subjects is None else np.concatenate([subjects, blank])
        part = TrainingPart(pixels, np.concatenate([labels, blank]), classes, device, subjects)
    return fn2en(part, teacher, setting, job.folder)


def _subject_numbers(manifest: Manifest, rows: np.ndarray) -> np.ndarray | None:
    """The persons of these rows as numbers from 0, -1 where one is unknown; None where none is known."""
    if manifest.subjects is None:
        return None
    names = manifest.subjects[rows]
    numbers = {name: number for number, name in enumerate(sorted(set(names) - {""}))}
    return np.array([numbers.get(name, -1) for name in names], np.int64)


def _calibrate(job: Job, material: Material, model: nn.Module, fabric: Fabric) -> float | None:
    """Fit the temperature on the inner rows and put it into the model; None where there are none."""
    rows = job.cut.inner
    if not len(rows):
        return None
    scores = class_scores(model, material.pixels[rows], material.contract.crop_px, fabric.device)
    temperature = fit_temperature(scores, material.manifest.labels[rows])
    divide_scores(model, temperature)
    return temperature


def _unlabelled(job: Job, material: Material) -> np.ndarray:
    """Faces without a label that stage 1 may see: none of a subject, a sequence or a fold that is held out."""
    allowed = np.ones(len(material.unlabelled), dtype=bool)
    tested, inner = (material.manifest.table.iloc[rows] for rows in (job.cut.test, job.cut.inner))
    for column in ("subject", "sequence", "fold"):
        if column in tested.columns and not (column == "sequence" and material.manifest.subjects is not None):
            held_out = set(tested[column]) | (set() if column == "fold" else set(inner[column]))
            allowed &= ~material.unlabelled.table[column].isin(held_out - {""}).to_numpy(dtype=bool)
    return material.unlabelled_pixels[allowed]


def _test(job: Job, material: Material, model: nn.Module, fabric: Fabric) -> pd.DataFrame:
    rows, classes = job.cut.test, material.manifest.classes
    probabilities = (
        class_probabilities(model, material.pixels[rows], material.contract.crop_px, fabric.device)
        if len(rows)
        else np.zeros((0, len(classes)), np.float32)
    )
    table = material.manifest.table.iloc[rows]
    columns: dict[str, Any] = {"image": table["image"].to_numpy()}
    if material.manifest.subjects is not None:
        columns["subject"] = table["subject"].to_numpy()
    columns |= {
        "fold": job.cut.name,
        "method": job.training.method,
        "seed": job.training.seed,
        "truth": table["label"].to_numpy(),
        "predicted": np.array(classes, dtype=object)[probabilities.argmax(axis=1)],
    }
    columns |= {f"p_{name}": probabilities[:, number] for number, name in enumerate(classes)}
    return pd.DataFrame(columns)


def _history(training: Training, records: Sequence[EpochRecord]) -> pd.DataFrame:
    rows = [
        {
            "method": training.method,
            "fold": training.fold,
            "seed": training.seed,
            **dataclasses.asdict(record),
        }
        for record in records
    ]
    return pd.DataFrame(rows).drop(columns="epochs")


def _draw(curves: SummaryWriter, record: EpochRecord) -> None:
    for name, value in _values(record):
        curves.add_scalar(f"{record.stage}/{name}", value, record.epoch)


def _values(record: EpochRecord) -> Iterator[tuple[str, float]]:
    yield "loss", record.loss
    yield "rate", record.lr
    if record.accuracy is not None:
        yield "accuracy", record.accuracy
    if record.r2 is not None:
        yield "R2", record.r2


def _epochs(method: str, recipe: Recipe) -> int:
    return {
        "scratch": recipe.scratch.epochs,
        "fine-tune": recipe.fine_tune.epochs,
        "fn2en": recipe.stage1.epochs + recipe.stage2.epochs,
    }[method]
