"""An ablation: the method trained again with something changed, on the same folds and seeds, in one table."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from facenet2expnet import recipes
from facenet2expnet.data import splits
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Protocol
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import run
from facenet2expnet.experiment.execute import Execution, run_jobs
from facenet2expnet.experiment.inputs import first_splits, load_pictures, prepare_inputs, with_framing, write_inputs
from facenet2expnet.experiment.job import METHODS, Job, Progress, collect, needed_methods
from facenet2expnet.experiment.metrics import scores_of_method
from facenet2expnet.experiment.parallel import Parallel
from facenet2expnet.experiment.significance import compare_paired
from facenet2expnet.experiment.speed import measure
from facenet2expnet.experiment.status import STOPPED, read_note
from facenet2expnet.experiment.variants import Variant, expand_doubling, training_key, vary
from facenet2expnet.files import atomic_path
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages

FORMAT = "facenet2expnet-ablation-2"
RECORD = "ablation.json"

SAME = ("recipe", "axes", "methods", "seeds", "hashes")
"""What processes that join must have in common, beside the identity."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Row:
    """A variant with a method: a row of the table.

    Attributes:
        number: of the variant; 0 is the base recipe.
        needed: the trainings over seeds and folds, and those of the fine-tuned face nets that they need.
    """

    number: int
    variant: Variant
    method: str
    needed: list[Job]

    @property
    def name(self) -> str:
        """What it is called in predictions.parquet."""
        return f"{self.number} {self.method}"

    @property
    def jobs(self) -> list[Job]:
        """The trainings of its own method."""
        return [job for job in self.needed if job.method == self.method]

    def stopped(self) -> str:
        """Why one of its trainings, or of their face nets, was stopped; empty if none was."""
        notes = (read_note(job.folder / STOPPED) for job in self.needed)
        return next((note.text for note in notes if note), "")


@run.threads_restored()
def ablate(
    data: str | Path | Manifest,
    changes: Sequence[str],
    *,
    recipe: Recipe | str = "best",
    settings: Sequence[str] = (),
    out: str | Path,
    methods: Sequence[str] = ("fn2en",),
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
    """Train the recipe and its variants on the same folds and seeds; write tables, one figure an axis and a page.

        ablate("faces/", ["face_net.tap=level2", "pictures=250.."], out="runs/ablation")

    A training that several variants share, such as the fine-tuned face net under two losses, is run once.

    Args:
        data: a folder of class folders, a CSV or Parquet manifest, a face store, or a manifest.
        changes: one variant each: a number of the recipe, as stage2.soft_labels=0; several that change together, joined
            by " & "; pictures=N trains on N pictures, pictures=250.. on 250, 500, 1,000 and so on; recipe=NAME is
            another preset or TOML file.
        recipe: what the variants differ from; a recipe, a preset's name or a TOML file.
        settings: dotted numbers to change in it, and in every recipe of recipe=NAME.
        out: the folder of the ablation; new, or with `resume` one that was started with the same data and folds. It may
            be resumed with other changes: nothing is trained twice, and table and page show those of the last call.
        methods: of METHODS.
        protocol, folds, first_folds, seeds, drop_near, device, threads, jobs, gpus, jobs_per_gpu, join, engine,
            address, resume, progress: see `compare`.
    Returns:
        The folder, with table.csv, predictions.parquet, figures and report.html.
    Raises:
        UserError: If anything given can't be used, and nothing is written then; or at the end, if jobs failed.
    """
    from facenet2expnet.report.ablation_page import write_ablation

    started, out = time.monotonic(), Path(out)
    parallel = Parallel(jobs, tuple(gpus), jobs_per_gpu, join, engine, address)
    threads = parallel.threads(threads)
    earlier = run.begin(out / RECORD, "an ablation", methods, seeds, threads, resume=resume, join=join)
    compute = parallel.device(device)
    variants = [
        replace(variant, recipe=run.settle_precision(variant.recipe, compute, earlier))
        for variant in vary(recipes.override(recipes.load(recipe), settings), changes, settings)
    ]
    base = variants[0].recipe
    for variant in variants:
        stages.check(variant.recipe, fine_tunes="fine-tune" in methods)
    dataset = load_pictures(data, base, progress)
    chosen = first_splits(splits.choose(dataset.manifest, protocol, folds), first_folds)
    smallest = min(len(split.train) for split in chosen.splits)
    variants = [one for variant in variants for one in expand_doubling(variant, smallest)]
    inputs = prepare_inputs(dataset, chosen, base, drop_near=drop_near)
    rows = _rows(variants, methods, seeds, dataset, chosen, out, drop_near)
    about = run.describe(inputs, base, compute, earlier, drop_near=drop_near)
    about |= _description(about, variants, methods, seeds, dataset)
    hashes, before = _hashes(variants, data, dataset, progress), (earlier or {}).get("hashes", {})
    if any(before.get(key, found) != found for key, found in hashes.items()):
        raise UserError(f"{out}: was started with other pictures or weights of these names; choose another --out")
    about["hashes"] = before | hashes
    with run.run_folder(out / RECORD, earlier, about, started, join=join, same=SAME) as (update, claims):
        write_inputs(out, inputs, base)
        _warn_of_no_change(variants, methods)
        users, stopped = _users(rows), {row.name for row in rows if row.stopped()}
        execution = Execution(
            out, _Pictures(data, dataset, base, progress), compute, lambda recipe: run.model_metadata(about, recipe),
            claims, parallel, progress=progress, on_end=update,
            wanted=lambda job: not users[job.folder] <= stopped, on_stop=lambda job: stopped.update(users[job.folder]),
        )  # fmt: skip
        run_jobs(_plan(rows), execution)
        with run.finishing(out / RECORD, claims) as first:
            if first:
                _write_tables(rows, about, out, compute)
                update(finished=run.now())
                write_ablation(out)
    return out


def _description(
    described: Mapping[str, Any],
    variants: Sequence[Variant],
    methods: Sequence[str],
    seeds: Sequence[int],
    dataset: Dataset,
) -> dict[str, Any]:
    """Return what the record of an ablation says otherwise than that of a run, or besides."""
    identity, manifest = described["identity"], described["manifest"]
    return {
        "format": FORMAT,
        "identity": {name: identity[name] for name in ("manifest", "folds", "drop_near")},
        "manifest": {name: value for name, value in manifest.items() if name != "pixels"},  # differ from crop to crop
        "recipe": recipes.to_dict(variants[0].recipe),
        "axes": {axis: [v.value for v in variants if v.axis == axis] for axis in [v.axis for v in variants[1:]]},
        "methods": list(methods),
        "seeds": list(seeds),
        "classes": list(dataset.manifest.classes),
        "skipped": len(dataset.skipped),
    }


def _warn_of_no_change(variants: Sequence[Variant], methods: Sequence[str]) -> None:
    base = variants[0].recipe
    for variant in variants[1:]:
        own, of_base = ([training_key(m, r) for m in methods] for r in (variant.recipe, base))
        if own == of_base and variant.pictures is None:
            log.warning("%s=%s changes nothing that is trained.", variant.axis, variant.value)


def _rows(
    variants: Sequence[Variant],
    methods: Sequence[str],
    seeds: Sequence[int],
    dataset: Dataset,
    protocol: Protocol,
    out: Path,
    drop_near: bool,
) -> list[Row]:
    """Plan the trainings of every variant and method; equal ones have one folder."""
    rows, trainings = [], out / "trainings"
    for number, variant in enumerate(variants):
        recipe, drawn = variant.recipe, protocol.splits
        if (count := variant.pictures) is not None:
            smaller = [splits.subsample(dataset.manifest, split.train, count) for split in drawn]
            drawn = [replace(split, train=train) for split, train in zip(drawn, smaller, strict=True)]
        drawn_protocol = replace(protocol, splits=drawn)
        prepared = prepare_inputs(dataset, drawn_protocol, recipe, drop_near=drop_near, report_near=False).splits
        sizes = [len(split.train) for split in drawn]
        for method in (m for m in METHODS if m in methods):
            needed = []
            for seed, (split, size) in product(seeds, zip(prepared, sizes, strict=True)):
                place = Path(f"{size}-pictures", f"seed-{seed}", split.name)
                folders = {m: trainings / f"{m}-{training_key(m, recipe)}" / place for m in METHODS}
                needed += [
                    Job(m, split, seed, folders[m], folders["fine-tune"]) for m in needed_methods([method], recipe)
                ]
            rows.append(Row(number, variant, method, needed))
    return rows


def _plan(rows: Sequence[Row]) -> list[tuple[Job, Recipe]]:
    """List every training once, those that see the same pictures one after the other."""
    planned: dict[Path, tuple[Job, Recipe]] = {}
    for row in rows:
        for job in row.needed:
            planned.setdefault(job.folder, (job, row.variant.recipe))
    crops = list(dict.fromkeys(recipe.crop for _, recipe in planned.values()))

    def place(item: tuple[Job, Recipe]) -> tuple[Any, ...]:
        job, recipe = item
        pictures = crops.index(recipe.crop), len(job.split.train), job.seed, job.split.name
        return *pictures, METHODS.index(job.method)

    return sorted(planned.values(), key=place)


def _users(rows: Sequence[Row]) -> dict[Path, set[str]]:
    """Return the names of the rows that need a training, by its folder.

    A row without all its trainings has no number: once one has stopped, those that only stopped rows need are left out.
    """
    users: dict[Path, set[str]] = {}
    for row in rows:
        for job in row.needed:
            users.setdefault(job.folder, set()).add(row.name)
    return users


class _Pictures:
    """Gives the pictures at a recipe's crop; those of one crop are in memory at a time."""

    def __init__(
        self, data: str | Path | Manifest, dataset: Dataset, recipe: Recipe, progress: Progress | None
    ) -> None:
        self.data, self.crop, self.progress = data, recipe.crop, progress
        self.dataset = with_framing(dataset)

    def __call__(self, recipe: Recipe) -> Dataset:
        if recipe.crop != self.crop:
            self.dataset = with_framing(load_pictures(self.data, recipe, self.progress))
            self.crop = recipe.crop
        return self.dataset


def _hashes(
    variants: Sequence[Variant], data: str | Path | Manifest, dataset: Dataset, progress: Progress | None
) -> dict[str, str]:
    """Return a hash of the pictures at every crop that a variant needs, and of every face net's weights.

    One crop is in memory at a time.

    Raises:
        UserError: If a variant's pictures can't be read, or are others than the base recipe's.
    """
    found = {_crop_key(variants[0].recipe): dataset.pixels_sha256()}
    for variant in variants:
        own = variant.recipe.face_net
        if (name := f"{own.name} {own.weights} {variant.recipe.expnet.start}") not in found:
            found[name] = stages.given_weights_sha256(variant.recipe)
        if (key := _crop_key(variant.recipe)) in found:
            continue
        try:
            read = load_pictures(data, variant.recipe, progress)
        except UserError as error:
            raise UserError(f"{variant.axis}={variant.value}: {error}; or leave this change out") from error
        if read.manifest.sha256() != dataset.manifest.sha256():
            raise UserError(
                f"{variant.axis}={variant.value}: {len(read.manifest)} pictures can be read, expected the "
                f"{len(dataset.manifest)} of the base recipe, since all variants share them; leave this change out"
            )
        found[key] = read.pixels_sha256()
    return found


def _crop_key(recipe: Recipe) -> str:
    return sha256(repr(recipe.crop).encode()).hexdigest()[:10]


def _write_tables(rows: Sequence[Row], about: Mapping[str, Any], out: Path, device: torch.device) -> None:
    """Write predictions.parquet and table.csv."""
    ended = [row for row in rows if not row.stopped()]
    if not ended:
        raise UserError(f"{out}: every variant was stopped; {rows[0].stopped()}")
    every = pd.concat([collect(row.jobs)[0].assign(method=row.name) for row in ended], ignore_index=True)
    with atomic_path(out / "predictions.parquet") as path:
        every.to_parquet(path, index=False)
    lines = []
    for row in rows:
        changed = {f"axis {axis}": row.variant.value if axis == row.variant.axis else "" for axis in about["axes"]}
        line = {"number": row.number} | changed | {"method": row.method, "pictures": len(row.jobs[0].split.train)}
        line |= _scores(row, every, about, device) if row in ended else {}
        lines.append(line | {"folder": str(row.jobs[0].folder.relative_to(out)), "stopped": row.stopped()})
    with atomic_path(out / "table.csv") as path:
        pd.DataFrame(lines).to_csv(path, index=False)


def _scores(row: Row, every: pd.DataFrame, about: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the numbers of a row of table.csv."""
    scores = scores_of_method(every[every["method"] == row.name], about["classes"])
    over = "seeds" if len(about["seeds"]) > 1 else "folds"
    std = scores["std_over_seeds" if over == "seeds" else "std"].get("accuracy")
    history = collect(row.jobs)[1]
    stage1 = history[history["stage"] == "stage1"]
    if stage1["val_loss"].notna().any():  # the stage ended with the weights of its best epoch
        stage1 = stage1.sort_values("val_loss", ascending=False)
    last = stage1.groupby(["seed", "fold"]).tail(1)
    model = load_model(row.jobs[0].folder / "model").module
    size = measure(row.method, model, row.variant.recipe.crop.crop_px, device)
    base, test = f"0 {row.method}", {}
    if row.number and base in set(every["method"]):
        test = asdict(compare_paired(every, row.name, base))
    return {
        "accuracy": scores["mean"]["accuracy"],
        "std": math.nan if std is None else std,
        "std_over": over,
        **{key: scores["mean"][key] for key in ("balanced_accuracy", "macro_f1", "negative_log_likelihood")},
        "expected_calibration_error": scores["pooled"]["expected_calibration_error"],
        "r2": float(last["r2"].mean()) if len(last) else math.nan,
        "training_seconds": float(history["seconds"].sum()) / len(row.jobs),
        **{key: size[key] for key in ("parameters", "multiply_adds", "ms_per_picture")},
        **{key: test.get(key, math.nan) for key in ("difference", "low", "high", "p_value", "units")},
        **{key: test.get(key, "") for key in ("unit", "covers", "reason")},
    }
