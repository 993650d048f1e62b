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

from facenet2expnet.data import splits
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.reporter import Reporter, Training
from facenet2expnet.experiment.tap import check_enough, kept_tap, recommended_tap
from facenet2expnet.files import write_atomic
from facenet2expnet.nets.classifier import divide_scores
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.recognizer import class_probabilities, class_scores
from facenet2expnet.recipe import Recipe
from facenet2expnet.training.loop import EpochRecord, best_epoch
from facenet2expnet.training.stages import AUTO, Setting, as_it_came, fine_tune, fn2en, from_scratch
from facenet2expnet.training.teacher import TrainingPart

METHODS = ("scratch", "fine-tune", "fn2en")
"""The paper's two baselines and its method, in the order of its tables."""

_WATCHED = {"scratch": ("scratch",)} | dict.fromkeys(METHODS[1:], ("fine_tune", "stage1", "stage2"))
"""The stages whose early stopping a method obeys; the fine-tuned face net is FN2EN's as well."""

VIEWS = "views"
"""The folder in a run of the teacher's views that all its trainings share; the run removes it when it ends."""


@dataclass(frozen=True, eq=False)
class Cut:
    """One cut of the dataset.

    Attributes:
        name: of the fold.
        train: rows to train on.
        test: rows to test on; empty where nothing is held out.
        calibration: rows of the fold's training part that no stage trains on, to fit the temperature; empty unless
            the recipe asks for some.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    calibration: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Job:
    """One training that a run has to do.

    Attributes:
        cut: what it trains and tests on.
        training: what is told of it.
        folder: where it leaves its files.
        teacher_folder: of the same cut's and seed's fine-tuned face net, and of the tap that was chosen on it.
        views_folder: of the teacher's views, where several trainings share them; whoever names it removes them.
        viewed: rising rows of the dataset whose views are computed together, where all folds have one teacher.
    """

    cut: Cut
    training: Training
    folder: Path
    teacher_folder: Path
    views_folder: Path | None = None
    viewed: np.ndarray | None = None


def plan(
    cuts: Sequence[Cut], methods: Sequence[str], seeds: Sequence[int], recipe: Recipe, run: Path
) -> list[Job]:
    """The trainings of a run in their order: seed by seed, fold by fold, method by method.

    FN2EN needs the fine-tuned face net, so that "fine-tune" comes with it and before it, unless the recipe takes the
    face net as it came: then its views are computed once for all folds, in the run's folder `views`.
    """
    tuned = recipe.face_net.fine_tuned
    wanted = [m for m in METHODS if m in methods or (m == "fine-tune" and "fn2en" in methods and tuned)]
    # A blended view holds a second picture, which another fold may test on; then each training has its own views.
    shared = not tuned and recipe.stage1.views > 0 and recipe.stage1.blend == 0
    views = run / VIEWS if shared else None
    viewed = np.unique(np.concatenate([cut.train for cut in cuts])) if shared else None
    jobs: list[Job] = []
    total = len(seeds) * len(cuts) * len(wanted)
    for seed in seeds:
        for cut in cuts:
            folder = (run / f"seed-{seed}" if len(seeds) > 1 else run) / cut.name
            for method in wanted:
                training = Training(
                    method, cut.name, seed, len(jobs) + 1, total, len(cut.train), epochs_of(method, recipe)
                )
                teacher_folder = folder / ("fine-tune" if tuned else "face-net")
                jobs.append(Job(cut, training, folder / method, teacher_folder, views, viewed))
    return jobs


def with_calibration(cut: Cut, manifest: Manifest, share: float) -> Cut:
    """Take a share of the training rows out of it: whole subjects or sequences, the same for all methods and seeds.

    Raises:
        UserError: If there are fewer than two subjects (or pictures) to cut between.
    """
    if not share:
        return cut
    train, inner = splits.split_validation(manifest, cut.train, share, seed=0)
    return dataclasses.replace(cut, train=train, calibration=inner)


def check_parts(recipe: Recipe, methods: Sequence[str], cuts: Sequence[Cut], manifest: Manifest) -> None:
    """Refuse training parts that are too small for what the recipe asks, before any training.

    Raises:
        UserError: If early stopping finds nothing to cut between, tap = auto too few pictures to choose by, or an
            identity-adversarial head fewer than two subjects.
    """
    weights = {"scratch": ("scratch", recipe.scratch), "fn2en": ("stage2", recipe.stage2)}
    opposed = [name for method, (name, stage) in weights.items() if method in methods and stage.adversarial]
    patient = [name for method in methods for name in _watching(recipe, method)]
    chooses = recipe.face_net.tap == AUTO and list(methods) != ["fine-tune"]
    for cut in cuts:
        if patient and len(np.unique(splits.units(manifest)[cut.train])) < 2:
            raise UserError(
                f"{patient[0]}.patience is above 0, expected two subjects (or sequences, or pictures) or more in every "
                f"training part, got one in {cut.name}: set {patient[0]}.patience=0"
            )
        if chooses:
            check_enough(len(cut.train))
        known = set() if manifest.subjects is None else set(manifest.subjects[cut.train]) - {""}
        if opposed and len(known) < 2:
            raise UserError(
                f"{opposed[0]}.adversarial is above 0, expected two subjects or more in every training part, got "
                f"{len(known)} in {cut.name}: fill the manifest's column subject, or set {opposed[0]}.adversarial=0"
            )


def run_job(
    job: Job, dataset: Dataset, recipe: Recipe, fabric: Fabric, reporter: Reporter, facts: dict[str, Any]
) -> None:
    """Train, save the model, test once, and leave predictions and history; nothing is done twice.

    Args:
        job: what to do; a job whose result is there is only told of again.
        dataset: the pictures.
        recipe: every number.
        fabric: device and precision.
        reporter: told of everything.
        facts: saved with the model.
    """
    done = job.folder / "result.json"
    reporter.begin(job.training)
    if done.is_file():
        drop_views(job.folder)
        reporter.end(job.training, json.loads(done.read_text())["accuracy"])
        return
    records: list[EpochRecord] = []
    shutil.rmtree(job.folder / "tensorboard", ignore_errors=True)
    with SummaryWriter(str(job.folder / "tensorboard")) as curves:

        def listen(record: EpochRecord) -> None:
            records.append(record)
            _draw(curves, record)
            reporter.epoch(job.training, record)

        setting = Setting(
            recipe, job.training.seed, fabric, listen, reporter.views, job.views_folder, reporter.note
        )
        setting = _with_tap(job, dataset, setting)
        model = _train(job, dataset, setting)
    for sentence in _endings(records):
        reporter.note(sentence)
    temperature = _calibrate(job, dataset, model, fabric)
    predictions = _test(job, dataset, model, fabric)
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
    if recipe.face_net.tap == AUTO and job.training.method != "fine-tune":
        origin["tap"] = setting.recipe.face_net.tap
    if temperature is not None:
        origin["calibration"] = {"temperature": temperature, "pictures": len(job.cut.calibration)}
    save_model(Model(model, dataset.manifest.classes, dataset.contract, origin), job.folder / "model")
    write_atomic(done, json.dumps({"accuracy": accuracy, "pictures_tested": len(predictions)}).encode())
    drop_views(job.folder)
    reporter.end(job.training, accuracy)


def collect(jobs: Sequence[Job]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and history of all finished jobs, one table each."""
    tables = [pd.read_parquet(job.folder / "predictions.parquet") for job in jobs]
    histories = [pd.read_csv(job.folder / "history.csv", dtype={"fold": str}) for job in jobs]
    filled = [table for table in tables if len(table)]
    predictions = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return predictions, pd.concat(histories, ignore_index=True)


def drop_views(folder: Path) -> None:
    """Remove the teacher's views from a folder: they serve a training, or a run, and take much room."""
    for views in folder.glob("views-*"):
        views.unlink()


def _train(job: Job, dataset: Dataset, setting: Setting) -> nn.Module:
    rows, inner = _inner_rows(job, dataset, setting.recipe)
    part = _labelled(dataset, rows, inner, setting)
    if job.training.method == "scratch":
        return from_scratch(part, setting, job.folder)
    if job.training.method == "fine-tune":
        return fine_tune(part, setting, job.folder)
    if setting.recipe.face_net.fine_tuned:
        teacher = fine_tune(part, dataclasses.replace(setting, listener=None), job.teacher_folder)
    else:
        teacher = as_it_came(setting.recipe, part.classes, part.device)
    extra = _unlabelled(job, dataset, inner)
    if setting.recipe.stage1.unlabelled and setting.note:
        setting.note(
            f"{len(extra):,} pictures without a label take part in stage 1."
            if len(extra)
            else "stage1.unlabelled is true, and there is no picture without a label that stage 1 may see."
        )
    if len(extra):
        pixels = np.concatenate([part.pixels, dataset.unlabelled_pixels[extra]])
        targets = np.concatenate([part.targets.cpu().numpy(), np.full(len(extra), -1)])
        persons = None
        if part.subjects is not None:
            persons = np.concatenate([part.subjects.cpu().numpy(), np.full(len(extra), -1)])
        part = TrainingPart(pixels, targets, part.classes, part.device, inner=part.inner, subjects=persons)
    whole = None
    if job.viewed is not None:
        pixels = np.concatenate([dataset.pixels[job.viewed], dataset.unlabelled_pixels])
        everything = TrainingPart(pixels, np.full(len(pixels), -1), part.classes, part.device)
        whole = (
            everything,
            np.concatenate([np.searchsorted(job.viewed, rows), len(job.viewed) + extra]),
        )
    return fn2en(part, teacher, setting, job.folder, whole=whole)


def _labelled(dataset: Dataset, rows: np.ndarray, inner: np.ndarray, setting: Setting) -> TrainingPart:
    """The rows to learn from, with those that early stopping watches."""
    labels, classes = dataset.manifest.labels, len(dataset.manifest.classes)
    device, watched = setting.fabric.device, None
    if len(inner):
        watched = TrainingPart(dataset.pixels[inner], labels[inner], classes, device)
    subjects = _subject_numbers(dataset.manifest, rows)
    return TrainingPart(dataset.pixels[rows], labels[rows], classes, device, inner=watched, subjects=subjects)


def _with_tap(job: Job, dataset: Dataset, setting: Setting) -> Setting:
    """The setting with the layer that the tap "auto" stands for. The scratch net has it, too: one architecture."""
    recipe, note = setting.recipe, setting.note or (lambda _: None)
    if recipe.face_net.tap != AUTO or job.training.method == "fine-tune":
        return setting
    tap = kept_tap(job.teacher_folder)
    if not tap:
        rows, inner = _inner_rows(job, dataset, recipe, method="fine-tune")
        part, tuned = _labelled(dataset, rows, inner, setting), None
        if recipe.face_net.fine_tuned:
            note("The face net is fine-tuned first, since the layer to transfer is chosen on it.")
            tuned = fine_tune(part, dataclasses.replace(setting, listener=None), job.teacher_folder)
        tap = recommended_tap(part, tuned, recipe, job.teacher_folder, note)
    recipe = dataclasses.replace(recipe, face_net=dataclasses.replace(recipe.face_net, tap=tap))
    return dataclasses.replace(setting, recipe=recipe)


def _inner_rows(
    job: Job, dataset: Dataset, recipe: Recipe, method: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training part to learn from, and those that early stopping watches, empty without patience.

    All stages of a training leave out the same rows, those without patience too: a network that has learned from
    a picture, or from a face net that has, can't be stopped by it. `method` is the job's own unless given.
    """
    watching = _watching(recipe, method or job.training.method)
    if not watching:
        return job.cut.train, np.zeros(0, np.int64)
    return splits.split_validation(
        dataset.manifest, job.cut.train, next(iter(watching.values())), job.training.seed
    )


def _watching(recipe: Recipe, method: str) -> dict[str, float]:
    """Stage -> its inner share, of those that stop early."""
    stages = {name: getattr(recipe, name) for name in _WATCHED[method]}
    return {name: stage.inner_share for name, stage in stages.items() if stage.patience}


def _subject_numbers(manifest: Manifest, rows: np.ndarray) -> np.ndarray | None:
    """The persons of these rows as numbers from 0, -1 where one is unknown; None where none is known."""
    if manifest.subjects is None:
        return None
    names = manifest.subjects[rows]
    numbers = {name: number for number, name in enumerate(sorted(set(names) - {""}))}
    return np.array([numbers.get(name, -1) for name in names], np.int64)


def _calibrate(job: Job, dataset: Dataset, model: nn.Module, fabric: Fabric) -> float | None:
    """Fit the temperature on the inner rows and put it into the model; None where there are none."""
    rows = job.cut.calibration
    if not len(rows):
        return None
    scores = class_scores(model, dataset.pixels[rows], dataset.contract.crop_px, fabric.device)
    temperature = fit_temperature(scores, dataset.manifest.labels[rows])
    divide_scores(model, temperature)
    return temperature


def _unlabelled(job: Job, dataset: Dataset, inner: np.ndarray) -> np.ndarray:
    """Numbers of the faces without a label that stage 1 may see: none of a person or a fold tested on.

    Nor any of a person whom early stopping watches or the temperature is fitted on. Persons are told by their subject
    and, where the subject of one of two pictures is not known, by the sequence.
    """
    table, faces = dataset.manifest.table, dataset.unlabelled.table
    held = table.iloc[np.concatenate([job.cut.test, inner, job.cut.calibration])]
    subjects, of = _column(held, "subject"), _column(faces, "subject")
    sequences, from_ = _column(held, "sequence"), _column(faces, "sequence")
    same = of.isin(set(subjects) - {""})
    same |= from_.isin(set(sequences[subjects == ""]) - {""})
    same |= (of == "") & from_.isin(set(sequences) - {""})
    same |= _column(faces, "fold").isin(set(_column(table.iloc[job.cut.test], "fold")) - {""})
    return np.flatnonzero(~same.to_numpy(dtype=bool))


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of names, empty where one is not known or the table has no such column."""
    return table[name] if name in table.columns else pd.Series("", index=table.index)


def _test(job: Job, dataset: Dataset, model: nn.Module, fabric: Fabric) -> pd.DataFrame:
    rows, classes = job.cut.test, dataset.manifest.classes
    probabilities = (
        class_probabilities(model, dataset.pixels[rows], dataset.contract.crop_px, fabric.device)
        if len(rows)
        else np.zeros((0, len(classes)), np.float32)
    )
    table = dataset.manifest.table.iloc[rows]
    columns: dict[str, Any] = {"image": table["image"].to_numpy()}
    if dataset.manifest.subjects is not None:
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


def _endings(records: Sequence[EpochRecord]) -> Iterator[str]:
    """Where the stages with patience ended."""
    for stage in dict.fromkeys(record.stage for record in records if record.inner is not None):
        told = [record for record in records if record.stage == stage]
        best = best_epoch(told)
        yield (
            f"{stage} ended after {len(told)} of {told[-1].epochs} epochs, with the weights of epoch {best} "
            f"(inner loss {told[best - 1].inner:.4g})."
        )


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
    if record.inner is not None:
        yield "inner loss", record.inner


def epochs_of(method: str, recipe: Recipe) -> int:
    """Of all stages that are the method's own."""
    return {
        "scratch": recipe.scratch.epochs,
        "fine-tune": recipe.fine_tune.epochs,
        "fn2en": recipe.stage1.epochs + recipe.stage2.epochs,
    }[method]
