"""`compare` trains all methods over all folds; `train` makes one model. Both fill one run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from facenet2expnet import recipes
from facenet2expnet.claims import Claims
from facenet2expnet.data import splits
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Protocol, Split
from facenet2expnet.device import choose_device
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import run
from facenet2expnet.experiment.execute import Execution, run_jobs
from facenet2expnet.experiment.inputs import (
    Inputs,
    check_votes,
    first_splits,
    load_pictures,
    prepare_inputs,
    with_framing,
    write_inputs,
)
from facenet2expnet.experiment.job import METHODS, Job, Progress, collect, plan_jobs, run_job
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.experiment.parallel import Parallel
from facenet2expnet.experiment.speed import measure
from facenet2expnet.files import atomic_path, write_json
from facenet2expnet.predict.model_folder import Model, load_model, save_model
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages

RECORD = "run.json"
FORMAT = "facenet2expnet-run-2"

log = logging.getLogger(__name__)


@run.threads_restored()
def compare(
    data: str | Path | Manifest | pd.DataFrame,
    *,
    recipe: Recipe | str | Path = "quick",
    out: str | Path,
    methods: Sequence[str] = METHODS,
    protocol: str = "auto",
    folds: int = 10,
    first_folds: int | None = None,
    seeds: Sequence[int] = (0,),
    drop_near: bool = False,
    device: str = "auto",
    threads: int | None = None,
    jobs: int | None = None,
    gpus: Sequence[str] = (),
    jobs_per_gpu: int = 1,
    join: bool = False,
    engine: str = "local",
    address: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train every method on every fold with the same splits and seeds, and test each once.

        compare("faces/", recipe="best", out="runs/faces")

    Args:
        data: a folder of class folders, a CSV or Parquet manifest, a face store, a manifest, or a DataFrame with
            the columns image,label.
        recipe: a recipe, a preset's name or a TOML file.
        out: the run folder; new, or with `resume` one that the same call began.
        methods: of METHODS; "fn2en" brings "fine-tune" with it, unless face_net.fine_tuned is false.
        protocol: see `data.splits.choose`.
        folds: number of folds, where the protocol leaves it open.
        first_folds: run only the first so many of them.
        seeds: of the trainings.
        drop_near: take near-duplicates of test pictures out of the training part, not only identical ones.
        device: "auto", "cpu", "cuda" or "mps".
        threads: of the CPU, for each job; None for PyTorch's choice, shared out among the jobs side by side, and one on
            a cluster. A resumed run takes those it began with, as a training's last bits depend on them.
        jobs: trainings side by side, in processes of this machine, by default one; or on a Ray cluster, by default as
            many as it has room for. The numbers do not depend on it.
        gpus: each a value of CUDA_VISIBLE_DEVICES; in place of `jobs`, `jobs_per_gpu` trainings run on each.
        jobs_per_gpu: trainings that share a GPU: one of `gpus`, or of the Ray cluster.
        join: work in `out` together with other processes that make the same call, here or on other machines.
        engine: "local" for this machine, "ray" for a Ray cluster, whose nodes must see `out`; a run that one engine
            began goes on with the other.
        address: HOST:PORT of the Ray cluster; None for that of RAY_ADDRESS, or of this machine.
        resume: continue a run that was interrupted.
        progress: called with what is being done, how much of it is done, and how much there is.
    Returns:
        The run folder, with metrics.json, predictions.parquet and report.html.
    Raises:
        UserError: If anything given can't be used, and nothing is written then; or at the end, if jobs failed.
    """
    started, out = time.monotonic(), Path(out)
    recipe = recipes.load(recipe)
    parallel = Parallel(jobs, tuple(gpus), jobs_per_gpu, join, engine, address)
    threads = parallel.threads(threads)
    earlier = run.begin(out / RECORD, "a run", methods, seeds, threads, resume=resume, join=join)
    face_net = stages.check(recipe, fine_tunes="fine-tune" in methods)
    compute = parallel.device(device)
    recipe = run.settle_precision(recipe, compute, earlier)
    dataset = load_pictures(data, recipe, progress)
    chosen = first_splits(splits.choose(dataset.manifest, protocol, folds), first_folds)
    inputs = prepare_inputs(dataset, chosen, recipe, drop_near=drop_near)
    planned = plan_jobs(inputs.splits, methods, seeds, recipe, out)
    about = run.describe(inputs, recipe, compute, earlier, kind="compare", methods=list(methods), seeds=list(seeds))
    about |= {"format": FORMAT, "notes": list(face_net.notes)}
    with run.run_folder(out / RECORD, earlier, about, started, join=join) as (update, claims):
        _train_and_test(planned, inputs, recipe, compute, about, out, update, claims, parallel, progress)
    return out


@run.threads_restored()
def train(
    data: str | Path | Manifest | pd.DataFrame,
    *,
    recipe: Recipe | str | Path = "quick",
    out: str | Path,
    method: str = "fn2en",
    holdout: bool = True,
    protocol: str = "auto",
    seed: int = 0,
    drop_near: bool = False,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train one model, in `out/model`.

    Args:
        method: of METHODS.
        holdout: keep the protocol's first fold (a tenth, more of small sets, by subject if subjects are known; the
            manifest's own split if it has one) out of the training and test on it once. False trains on everything.
        seed: of the training.
        data, recipe, out, protocol, drop_near, device, threads, resume, progress: see `compare`.
    Returns:
        The run folder.
    Raises:
        UserError: If anything given can't be used; nothing is written then.
    """
    started, out = time.monotonic(), Path(out)
    recipe = recipes.load(recipe)
    earlier = run.begin(out / RECORD, "a run", [method], [seed], threads, resume=resume)
    face_net = stages.check(recipe, fine_tunes=method == "fine-tune")
    compute = choose_device(device)
    recipe = run.settle_precision(recipe, compute, earlier)
    dataset = load_pictures(data, recipe, progress)
    if holdout:
        chosen = splits.choose(dataset.manifest, protocol, _affordable_folds(dataset.manifest))
        chosen = replace(chosen, splits=chosen.splits[:1])
    else:
        chosen = _no_holdout(dataset.manifest)
    inputs = prepare_inputs(dataset, chosen, recipe, drop_near=drop_near)
    planned = plan_jobs(inputs.splits, [method], [seed], recipe, out)
    about = run.describe(inputs, recipe, compute, earlier, kind="train", methods=[method], seeds=[seed])
    about |= {"format": FORMAT, "notes": list(face_net.notes)}
    with run.run_folder(out / RECORD, earlier, about, started) as (update, claims):
        _train_and_test(planned, inputs, recipe, compute, about, out, update, claims, Parallel(), progress)
    return out


def train_on_all(
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    method: str = "fn2en",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Model:
    """Train one model on all labelled pictures of a dataset in memory, without the record and report of a run.

    Args:
        dataset, recipe: the pictures, as the recipe's crop contract stores them.
        folder: of the files of the training; new or empty.
        method, seed, device, progress: see `train`.
    Raises:
        UserError: If anything given can't be used.
    """
    if method not in METHODS:
        raise UserError(f"method is '{method}', expected one of {', '.join(METHODS)}")
    check_votes(dataset.manifest, recipe)
    stages.check(recipe, fine_tunes=method == "fine-tune")
    compute = choose_device(device)
    recipe = run.settle_precision(recipe, compute, None)
    inputs = prepare_inputs(dataset, _no_holdout(dataset.manifest), recipe)
    jobs = plan_jobs(inputs.splits, [method], [seed], recipe, folder)
    about = run.describe(inputs, recipe, compute, None, kind="train", methods=[method], seeds=[seed])
    metadata, dataset = run.model_metadata(about, recipe), with_framing(dataset)
    for job in jobs:
        run_job(job, dataset, recipe, compute, metadata, progress)
    return load_model(jobs[-1].folder / "model")


def _no_holdout(manifest: Manifest) -> Protocol:
    """One split that trains on all labelled pictures."""
    rows = np.flatnonzero(manifest.labels >= 0)
    note = "Nothing was held out, so there is no honest accuracy of this model."
    return Protocol("none", [Split("all", rows, rows[:0])], note)


def _train_and_test(
    jobs: Sequence[Job],
    inputs: Inputs,
    recipe: Recipe,
    device: torch.device,
    about: dict[str, Any],
    out: Path,
    update: Callable[..., None],
    claims: Claims,
    parallel: Parallel,
    progress: Progress | None,
) -> None:
    """Run all jobs, then write predictions, metrics, sizes and the report; `update` writes the record again."""
    write_inputs(out, inputs, recipe)
    for note in about["notes"]:
        log.info("%s", note)
    metadata, dataset = run.model_metadata(about, recipe), with_framing(inputs.dataset)
    execution = Execution(
        out, lambda _: dataset, device, lambda _: metadata, claims, parallel, on_end=update, progress=progress
    )
    run_jobs([(job, recipe) for job in jobs], execution)
    with run.finishing(out / RECORD, claims) as first:
        if first:
            _write_results(jobs, inputs, about, out, device, update)


def _write_results(
    jobs: Sequence[Job],
    inputs: Inputs,
    about: dict[str, Any],
    out: Path,
    device: torch.device,
    update: Callable[..., None],
) -> None:
    """Write what is made of all jobs."""
    from facenet2expnet.report.page import write_report

    predictions, history = collect(jobs)
    with atomic_path(out / "history.csv") as path:
        history.to_csv(path, index=False)
    if len(predictions):
        with atomic_path(out / "predictions.parquet") as path:
            predictions.to_parquet(path, index=False)
        write_json(out / "metrics.json", summarise(predictions, inputs.dataset.manifest.classes))
    first = {job.method: job.folder / "model" for job in reversed(jobs)}
    models = {method: load_model(first[method]) for method in METHODS if method in first}
    crop_px = inputs.dataset.contract.crop_px
    write_json(out / "sizes.json", [measure(name, model.module, crop_px, device) for name, model in models.items()])
    if about["kind"] == "train":
        save_model(models[about["methods"][0]], out / "model")
    update(finished=run.now())
    write_report(out)


def _affordable_folds(manifest: Manifest, most: int = 10) -> int:
    """Return how many folds the rarest class and the number of subjects or sequences allow, `most` at the most."""
    manifest = manifest.rows((manifest.labels >= 0) & ~manifest.train_only)  # those that can be tested
    groups = len(np.unique(manifest.groups))
    return max(2, min(most, groups, *(count for count in manifest.counts.values() if count)))
