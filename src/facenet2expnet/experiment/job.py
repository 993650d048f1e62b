"""One training of a run: one method on one split with one seed, from training part to predictions."""

from __future__ import annotations

import dataclasses
import logging
import shutil
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
from facenet2expnet.errors import StageStopped
from facenet2expnet.experiment.calibration import fit_temperature
from facenet2expnet.experiment.evaluate import predict_table
from facenet2expnet.files import atomic_path, read_json, write_json
from facenet2expnet.nets.classifier import divide_scores
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.scores import class_scores
from facenet2expnet.recipe import Recipe
from facenet2expnet.training.loop import EpochRecord, best_epoch
from facenet2expnet.training.stages import TrainingContext, fine_tune, fn2en, from_scratch, pretrained_teacher
from facenet2expnet.training.teacher import TrainingSet, drop_views

METHODS = ("scratch", "fine-tune", "fn2en")
"""The paper's two baselines and its method, in the order of its tables."""

RESULT = "result.json"

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
        views_folder: of the teacher's cached views if several trainings share them; whoever names it deletes them.
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
    """List the trainings of a run in their order: seed by seed, split by split, method by method.

    FN2EN needs the fine-tuned face net, so "fine-tune" comes before it, unless the recipe takes the pretrained one.
    """
    wanted = set(methods) | ({"fine-tune"} if "fn2en" in methods and recipe.face_net.fine_tuned else set())
    jobs = []
    for seed in seeds:
        for split in splits:
            place = (folder / f"seed-{seed}" if len(seeds) > 1 else folder) / split.name
            jobs += [Job(m, split, seed, place / m, place / "fine-tune") for m in METHODS if m in wanted]
    return [dataclasses.replace(job, number=n, total=len(jobs)) for n, job in enumerate(jobs, start=1)]


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
        job: what to do.
        dataset: the pictures.
        recipe: every number.
        device: where to compute.
        metadata: saved with the model.
        progress: called with the epochs done.
    Raises:
        StageStopped: If the training can't go on, or does not fit in memory.
    """
    if (job.folder / RESULT).is_file():
        drop_views(job.folder)
        log.info("%s: done before%s", job.title, _accuracy_text(read_json(job.folder / RESULT)["accuracy"]))
        return
    log.info("%s: %d training pictures", job.title, len(job.split.train))
    records: list[EpochRecord] = []
    with _memory_errors(job), _epoch_callback(job, recipe, records, progress) as on_epoch:
        views = progress_of("teacher's features", progress)
        context = TrainingContext(recipe, job.seed, device, on_epoch, views, job.views_folder)
        model = _train(job, dataset, context)
    _log_early_stopping(records)
    temperature = None
    if recipe.calibrate:
        rows = job.split.validation
        scores = class_scores(model, dataset.pixels, dataset.contract.crop_px, device, rows=rows)
        temperature = fit_temperature(scores, dataset.manifest.labels[rows])
        divide_scores(model, temperature)
    what = {"fold": job.split.name, "method": job.method, "seed": job.seed}
    predictions = predict_table(model, dataset, job.split.test, dataset.manifest.classes, device, **what)
    if temperature is not None:
        predictions["temperature"] = temperature
    correct = predictions["truth"] == predictions["predicted"]
    accuracy = float(correct.mean()) if len(predictions) else None
    with atomic_path(job.folder / "predictions.parquet") as path:
        predictions.to_parquet(path, index=False)
    with atomic_path(job.folder / "history.csv") as path:
        _history(job, records).to_csv(path, index=False)
    trained_on = {"fold": job.split.name, "seed": job.seed, "pictures": len(job.split.train)}
    saved = {**metadata, "method": job.method, "metrics": {"accuracy": accuracy}}
    saved["trained_on"] = {**metadata["trained_on"], **trained_on}
    if temperature is not None:
        saved["calibration"] = {"temperature": temperature, "pictures": len(job.split.validation)}
    save_model(Model(model, dataset.manifest.classes, dataset.contract, saved), job.folder / "model")
    write_json(job.folder / RESULT, {"accuracy": accuracy, "pictures_tested": len(predictions)})
    drop_views(job.folder)
    log.info("%s: done%s", job.title, _accuracy_text(accuracy))


def progress_of(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    """Give the progress callback of one thing, (done, total)."""
    return partial(progress, what) if progress else None


def collect(jobs: Sequence[Job]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give the predictions and the history of finished jobs, one table each."""
    tables = [pd.read_parquet(job.folder / "predictions.parquet") for job in jobs]
    histories = [pd.read_csv(job.folder / "history.csv", dtype={"fold": str}) for job in jobs]
    filled = [table for table in tables if len(table)]
    predictions = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return predictions, pd.concat(histories, ignore_index=True)


def epochs_of(method: str, recipe: Recipe) -> int:
    """Give the epochs of all stages that are the method's own."""
    return {
        "scratch": recipe.scratch.epochs,
        "fine-tune": recipe.fine_tune.epochs,
        "fn2en": recipe.stage1.epochs + recipe.stage2.epochs,
    }[method]


def _train(job: Job, dataset: Dataset, context: TrainingContext) -> nn.Module:
    """Train the job's method on its training part."""
    data = _training_set(dataset, job.split.train, job.split.validation, context.device)
    if job.method == "scratch":
        return from_scratch(data, context, job.folder)
    if job.method == "fine-tune":
        return fine_tune(data, context, job.folder)
    if context.recipe.face_net.fine_tuned:
        teacher = fine_tune(data, dataclasses.replace(context, on_epoch=None), job.teacher_folder)
    else:
        teacher = pretrained_teacher(context.recipe, data.classes, context.device)
    if context.recipe.stage1.unlabelled:
        log.info("%d pictures without a label take part in stage 1.", len(job.split.unlabelled))
        rows = np.concatenate([job.split.train, job.split.unlabelled])
        data = _training_set(dataset, rows, job.split.validation, context.device)
    return fn2en(data, teacher, context, job.folder)


def _training_set(dataset: Dataset, rows: np.ndarray, validation: np.ndarray, device: torch.device) -> TrainingSet:
    labels, classes = dataset.manifest.labels, len(dataset.manifest.classes)
    watched = TrainingSet(dataset.pixels, validation, labels[validation], classes, device)
    return TrainingSet(dataset.pixels, rows, labels[rows], classes, device, watched if len(validation) else None)


@contextmanager
def _epoch_callback(
    job: Job, recipe: Recipe, records: list[EpochRecord], progress: Progress | None
) -> Iterator[Callable[[EpochRecord], None]]:
    """Give a function that keeps, draws and logs the record of every epoch."""
    shutil.rmtree(job.folder / "tensorboard", ignore_errors=True)  # a resumed training replays its epochs
    names = {"loss": "loss", "lr": "rate", "accuracy": "accuracy", "r2": "R2", "val_loss": "validation loss"}
    with SummaryWriter(str(job.folder / "tensorboard")) as curves:

        def on_epoch(record: EpochRecord) -> None:
            records.append(record)
            values = {name: getattr(record, field) for field, name in names.items()}
            values = {name: value for name, value in values.items() if value is not None}
            for name, value in values.items():
                curves.add_scalar(f"{record.stage}/{name}", value, record.epoch)
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            log.debug("%s epoch %d/%d: %s, %.1f s", record.stage, record.epoch, record.epochs, text, record.seconds)
            if progress:
                progress(job.title, len(records), epochs_of(job.method, recipe))

        yield on_epoch


@contextmanager
def _memory_errors(job: Job) -> Iterator[None]:
    """Stop a training that does not fit in memory with advice; PyTorch has no class of its own for that on a CPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise StageStopped(
            f"{job.method}: the training does not fit in memory ({str(error).splitlines()[0]}); "
            "take a smaller network, input size or batch_size"
        ) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that something does not fit in memory."""
    words = ("allocate memory", "out of memory", "Storage size calculation overflowed", "Overflow when unpacking")
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


def _history(job: Job, records: Sequence[EpochRecord]) -> pd.DataFrame:
    keys = {"method": job.method, "fold": job.split.name, "seed": job.seed}
    return pd.DataFrame([{**keys, **dataclasses.asdict(record)} for record in records]).drop(columns="epochs")


def _log_early_stopping(records: Sequence[EpochRecord]) -> None:
    for stage in dict.fromkeys(record.stage for record in records if record.val_loss is not None):
        own = [record for record in records if record.stage == stage]
        best = best_epoch(own)
        log.info(
            "%s ended after %d of %d epochs, with the weights of epoch %d (validation loss %.4g).",
            stage, len(own), own[-1].epochs, best, own[best - 1].val_loss,
        )  # fmt: skip


def _accuracy_text(accuracy: float | None) -> str:
    return "" if accuracy is None else f", accuracy {accuracy:.1%} on the test part"
