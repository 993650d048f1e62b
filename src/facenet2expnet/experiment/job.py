"""One training of a run: one method on one split with one seed, from training part to predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.splits import Split
from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.evaluate import predict_table
from facenet2expnet.experiment.status import RESULT
from facenet2expnet.files import atomic_path, write_json
from facenet2expnet.nets.classifier import AveragedTeacher, Teacher, divide_scores
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.scores import class_scores, torch_classifier
from facenet2expnet.recipe import Recipe
from facenet2expnet.training.loop import EpochRecord, best_epoch
from facenet2expnet.training.stages import TrainingContext, fine_tune, fn2en, from_scratch, pretrained_teacher
from facenet2expnet.training.teacher import TrainingSet, drop_views

METHODS = ("scratch", "fine-tune", "fn2en")
"""The paper's two baselines and its method, in the order of its tables."""

SEEDS_APART = 10_000
"""Between the seeds of the fine-tuned face nets of one teacher."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job:
    """One training.

    Attributes:
        method: of METHODS.
        split: what it trains, validates and tests on.
        seed: of the training.
        folder: of its files.
        teacher_folder: of the fine-tuned face net of the same split and seed.
        views_folder: of the teacher's cached views if several trainings share them; the caller deletes it.
        number, total: its place in the run, from 1.
    """

    method: str
    split: Split
    seed: int
    folder: Path
    teacher_folder: Path
    views_folder: Path | None = None
    number: int = 1
    total: int = 1

    @property
    def title(self) -> str:
        """Method, fold, seed and place, for logs and progress bars."""
        return f"{self.method}, fold {self.split.name}, seed {self.seed} ({self.number} of {self.total})"


def plan_jobs(
    splits: Sequence[Split], methods: Sequence[str], seeds: Sequence[int], recipe: Recipe, folder: Path
) -> list[Job]:
    """List the trainings of a run in their order: seed by seed, split by split, method by method."""
    jobs = []
    for seed in seeds:
        for split in splits:
            place = (folder / f"seed-{seed}" if len(seeds) > 1 else folder) / split.name
            jobs += [Job(m, split, seed, place / m, place / "fine-tune") for m in needed_methods(methods, recipe)]
    return [dataclasses.replace(job, number=n, total=len(jobs)) for n, job in enumerate(jobs, start=1)]


def needed_methods(methods: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the methods in their order; FN2EN brings "fine-tune", unless the recipe takes the pretrained face net."""
    brings = "fn2en" in methods and recipe.face_net.fine_tuned
    return [m for m in METHODS if m in methods or (m == "fine-tune" and brings)]


def run_job(
    job: Job,
    dataset: Dataset,
    recipe: Recipe,
    device: torch.device,
    metadata: dict[str, Any],
    progress: Progress | None = None,
) -> None:
    """Train, save the model, test it once, and write predictions and history. Finished jobs are skipped.

    Args:
        job, dataset, recipe, device: what to train, on what and where.
        metadata: saved with the model.
        progress: called with the epochs done and in all.
    Raises:
        StageStopped: If the training can't go on, or does not fit in memory.
    """
    if skip_finished(job):
        return
    log.info("%s: %d training pictures", job.title, len(job.split.train))
    records: list[EpochRecord] = []
    views = partial(progress, "teacher's features") if progress else None
    advice = f"{job.method}: the training does not fit in memory", "take a smaller network, input size or batch_size"
    with memory_errors(*advice), _epoch_callback(job, recipe, records, progress) as on_epoch:
        model = _train(job, dataset, TrainingContext(recipe, job.seed, device, on_epoch, views, job.views_folder))
    _log_early_stopping(records)
    temperature = None
    if recipe.calibrate:
        rows = job.split.validation
        scores = class_scores(model, dataset.pixels, dataset.contract.crop_px, device, rows=rows)
        temperature = fit_temperature(scores, dataset.manifest.labels[rows])
        divide_scores(model, temperature)
    what = {"fold": job.split.name, "method": job.method, "seed": job.seed}
    classify = torch_classifier(model, dataset.contract.crop_px, device)
    predictions = predict_table(classify, dataset, job.split.test, dataset.manifest.classes, **what)
    if temperature is not None:
        predictions["temperature"] = temperature
    correct = predictions["truth"] == predictions["predicted"]
    accuracy = float(correct.mean()) if len(predictions) else None
    with atomic_path(job.folder / "predictions.parquet") as path:
        predictions.to_parquet(path, index=False)
    with atomic_path(job.folder / "history.csv") as path:
        history = pd.DataFrame([what | dataclasses.asdict(record) for record in records])
        history.drop(columns="epochs").to_csv(path, index=False)
    trained_on = {"fold": job.split.name, "seed": job.seed, "pictures": len(job.split.train)}
    saved = metadata | {"method": job.method, "metrics": {"accuracy": accuracy}}
    saved["trained_on"] = metadata["trained_on"] | trained_on
    if temperature is not None:
        saved["calibration"] = {"temperature": temperature, "pictures": len(job.split.validation)}
    save_model(Model(model, dataset.manifest.classes, dataset.contract, saved), job.folder / "model")
    write_json(job.folder / RESULT, {"accuracy": accuracy, "pictures_tested": len(predictions)})
    drop_views(job.folder)
    log.info("%s: done%s", job.title, "" if accuracy is None else f", accuracy {accuracy:.1%} on the test part")


def skip_finished(job: Job) -> bool:
    """Whether a job is done already; then what a killed process may have left of it is deleted."""
    if not (job.folder / RESULT).is_file():
        return False
    drop_views(job.folder)
    log.info("%s: done before", job.title)
    return True


def collect(jobs: Sequence[Job]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the predictions and the history of finished jobs, one table each."""
    tables, histories = [], []
    for job in jobs:
        try:
            tables.append(pd.read_parquet(job.folder / "predictions.parquet"))
            histories.append(pd.read_csv(job.folder / "history.csv", dtype={"fold": str}))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            advice = f"delete {job.folder} and add --resume to do this job again"
            raise UserError(f"{job.folder}: its results can't be read ({reason}); {advice}") from error
    filled = [table for table in tables if len(table)]
    predictions = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return predictions, pd.concat(histories, ignore_index=True)


def _train(job: Job, dataset: Dataset, context: TrainingContext) -> nn.Module:
    """Train the job's method on its training part."""
    data = _training_set(dataset, job.split.train, job.split.validation, context.device)
    if job.method == "scratch":
        return from_scratch(data, context, job.folder)
    if job.method == "fine-tune":
        return fine_tune(data, context, job.folder)
    teacher: Teacher
    if context.recipe.face_net.fine_tuned:
        teacher = _fine_tuned_teacher(job, data, dataclasses.replace(context, on_epoch=None))
    else:
        teacher = pretrained_teacher(context.recipe, data.classes, context.device)
    if context.recipe.stage1.unlabelled:
        log.info("%d pictures without a label take part.", len(job.split.unlabelled))
        rows = np.concatenate([job.split.train, job.split.unlabelled])
        data = _training_set(dataset, rows, job.split.validation, context.device)
    return fn2en(data, teacher, context, job.folder)


def _fine_tuned_teacher(job: Job, data: TrainingSet, context: TrainingContext) -> Teacher:
    """Return the fine-tuned face net, or the mean of several: the first is that of the method "fine-tune"."""
    members = [fine_tune(data, context, job.teacher_folder)]
    for number in range(2, context.recipe.face_net.teachers + 1):
        log.info("%s: teacher %d of %d", job.title, number, context.recipe.face_net.teachers)
        own = dataclasses.replace(context, seed=context.seed + SEEDS_APART * (number - 1))
        members.append(fine_tune(data, own, job.teacher_folder / f"teacher-{number}"))
    return members[0] if len(members) == 1 else AveragedTeacher(members).eval()


def _training_set(dataset: Dataset, rows: np.ndarray, validation: np.ndarray, device: torch.device) -> TrainingSet:
    labels, votes, classes = dataset.manifest.labels, dataset.manifest.votes, len(dataset.manifest.classes)
    watched = TrainingSet(dataset.pixels, validation, labels[validation], classes, device)
    watched_or_none, of_rows = watched if len(validation) else None, None if votes is None else votes[rows]
    return TrainingSet(dataset.pixels, rows, labels[rows], classes, device, watched_or_none, of_rows)


@contextmanager
def _epoch_callback(
    job: Job, recipe: Recipe, records: list[EpochRecord], progress: Progress | None
) -> Iterator[Callable[[EpochRecord], None]]:
    """Return a function that keeps, draws and logs the record of every epoch."""
    shutil.rmtree(job.folder / "tensorboard", ignore_errors=True)  # a resumed training replays its epochs
    epochs = {"scratch": recipe.scratch.epochs, "fine-tune": recipe.fine_tune.epochs}
    total = epochs.get(job.method, recipe.stage1.epochs + recipe.stage2.epochs)
    names = {"loss": "loss", "lr": "rate", "accuracy": "accuracy", "r2": "R2", "val_loss": "validation loss"}
    with (
        _without_tracebacks_of_threads(),
        SummaryWriter(str(job.folder / "tensorboard")) as curves,
        contextlib.ExitStack() as at_end,
    ):
        if progress:  # early stopping leaves epochs out
            at_end.callback(progress, job.title, total, total)

        def on_epoch(record: EpochRecord) -> None:
            records.append(record)
            values = {name: getattr(record, field) for field, name in names.items()}
            values = {name: value for name, value in values.items() if value is not None}
            for name, value in values.items():
                curves.add_scalar(f"{record.stage}/{name}", value, record.epoch)
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            log.debug("%s epoch %d/%d: %s, %.1f s", record.stage, record.epoch, record.epochs, text, record.seconds)
            if progress:
                progress(job.title, len(records), total)

        yield on_epoch


@contextmanager
def _without_tracebacks_of_threads() -> Iterator[None]:
    """On a full disk, TensorBoard's thread raises what the training then raises too: it is told once."""
    before = threading.excepthook

    def told(raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, OSError):
            before(raised)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def memory_errors(what: str, advice: str, kind: type[UserError] = StageStopped) -> Iterator[None]:
    """Turn errors of memory into one with advice; PyTorch has no class of its own for them on a CPU."""
    words = ("allocate memory", "out of memory", "Storage size calculation overflowed", "Overflow when unpacking")
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError) as error:
        text = str(error).partition("\n")[0]
        if isinstance(error, MemoryError) or any(word in str(error) for word in words):
            raise kind(f"{what} ({text or type(error).__name__}); {advice}") from None
        raise


def _log_early_stopping(records: Sequence[EpochRecord]) -> None:
    for stage in dict.fromkeys(record.stage for record in records if record.val_loss is not None):
        own = [record for record in records if record.stage == stage]
        best = best_epoch(own)
        log.info(
            "%s ended after %d of %d epochs, with the weights of epoch %d (validation loss %.4g).",
            stage, len(own), own[-1].epochs, best, own[best - 1].val_loss,
        )  # fmt: skip
