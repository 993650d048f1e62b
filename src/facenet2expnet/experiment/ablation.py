"""An ablation: the method trained again with something changed, on the same folds and seeds, in one table."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric

from facenet2expnet import recipe as recipes
from facenet2expnet.data import splits
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.experiment.job import (
    METHODS,
    Cut,
    Job,
    check_parts,
    epochs_of,
    with_calibration,
)
from facenet2expnet.experiment.metrics import scores_of_method
from facenet2expnet.experiment.provenance import (
    command_line,
    device_name,
    earlier_record,
    now,
    versions,
    write_json,
)
from facenet2expnet.experiment.reporter import Reporter, Training
from facenet2expnet.experiment.run import (
    Machine,
    alone_in,
    check_fold_names,
    load_pictures,
    only_first,
    open_device,
    train_one,
    write_beginning,
)
from facenet2expnet.experiment.significance import compare_paired
from facenet2expnet.experiment.speed import measure
from facenet2expnet.experiment.variants import Axis, Variant, doubled, vary, with_steps
from facenet2expnet.files import write_atomic
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages

FORMAT = "facenet2expnet-ablation-1"
RECORD = "ablation.json"
STOPPED = "stopped.txt"

_UNSEEN: Mapping[str, tuple[str, ...]] = {
    "fine-tune": ("name", "expnet", "stage1", "stage2", "scratch"),
    "scratch": ("name", "fine_tune", "stage1", "stage2"),
    "fn2en": ("name", "scratch"),
}
"""The sections of a recipe that a method does not look at: trainings that differ only there are one training."""


def ablate(
    data: str | Path | Manifest,
    axes: Sequence[Axis],
    *,
    recipe: Recipe | str = "best",
    settings: Sequence[str] = (),
    out: str | Path,
    cross: bool = False,
    methods: Sequence[str] = ("fn2en",),
    steps_of: int | None = None,
    protocol: str = "auto",
    folds: int = 10,
    first_folds: int | None = None,
    seeds: Sequence[int] = (0,),
    machine: Machine | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train the recipe and its variants on the same folds and seeds; write tables, one figure an axis and a page.

        ablate("faces/", [Axis("objective", ("srd", "cosine"))], out="runs/objectives")

    A training that several variants share, such as the fine-tuned face net under two objectives, is done once; so
    are the teacher's views of those that see the same pictures.

    Args:
        data: a folder of class folders, a CSV or Parquet manifest, a face store, or a manifest.
        axes: what to change, one axis at a time.
        recipe: what the variants differ from; a recipe, a preset's name or a TOML file.
        settings: dotted numbers to change in it, and in every recipe of the axis "recipe".
        out: the folder of the ablation; new, or with `resume` one that was begun with the same data and folds. It may
            be resumed with other axes: what is trained is not trained again, but the table, the figures and the page
            show the axes of the last call only.
        cross: every value of an axis with every value of all others, instead of one axis at a time.
        methods: of METHODS.
        steps_of: train every variant for as many steps as the recipe's epochs take over so many pictures, so that the
            axis "pictures" shows the pictures and not the computing. None keeps the epochs.
        protocol, folds, first_folds, seeds, machine, resume, reporter: see `experiment.run.compare`.
    Returns:
        The folder, with table.csv, table.md, predictions.parquet, figures and report.html.
    Raises:
        UserError: If anything given can't be used; nothing is written then.
    """
    if not methods or set(methods) - set(METHODS):
        raise UserError(f"methods: got {list(methods)}, expected some of {', '.join(METHODS)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: got {list(seeds)}, expected one or more different numbers")
    out, machine, reporter = Path(out), machine or Machine(), reporter or Reporter()
    before = earlier_record(
        out / RECORD, "an ablation", {"created", "manifest", "split", "threads"}, resume=resume
    )
    threads = before["threads"] if before else machine.threads
    if threads:
        torch.set_num_threads(threads)
    base = recipes.load(recipe) if isinstance(recipe, str) else recipe
    variants = vary(recipes.override(base, settings), axes, cross=cross, settings=settings)
    face_nets = [stages.check(variant.recipe, fine_tunes="fine-tune" in methods) for variant in variants]
    fabric = open_device(machine.device, variants[0].recipe.precision)
    dataset = load_pictures(data, variants[0].recipe, reporter)
    drawn = only_first(splits.choose(dataset.manifest, protocol, folds), first_folds)
    check_fold_names([fold.name for fold in drawn.folds])
    cuts = [Cut(fold.name, fold.train, fold.test) for fold in drawn.folds]
    smallest = min(len(cut.train) for cut in cuts)
    axes = [doubled(axis, smallest) for axis in axes]
    variants = vary(variants[0].recipe, axes, cross=cross, settings=settings)
    if steps_of:
        variants = [with_steps(v, steps_of, v.pictures or smallest) for v in variants]
    about = {
        **_about(variants[0].recipe, axes, dataset, drawn, fabric),
        "created": before["created"] if before else now(),
        "crossed": cross,
        "methods": list(methods),
        "seeds": list(seeds),
        "steps_of": steps_of,
    }
    if before and any(before[name] != about[name] for name in ("manifest", "split")):
        raise UserError(f"{out}: was begun with other pictures or folds; choose another --out")
    unlabelled = _unlabelled(data, variants, dataset, reporter)
    jobs = _jobs(variants, methods, cuts, seeds, dataset.manifest, out, unlabelled)
    for item in (item for items in jobs.values() for item in items):
        check_parts(item.variant.recipe, [item.job.training.method], [item.job.cut], dataset.manifest)
    with alone_in(out / RECORD, begins=before is None):
        reporter = write_beginning(
            out / RECORD, about, variants[0].recipe, dataset, drawn,
            [item.job.cut for items in jobs.values() for item in items],
            earlier=before, face_nets=face_nets, reporter=reporter,
        )  # fmt: skip
        _train(jobs, data, dataset, machine.device, reporter, about)
        _conclude(out, jobs, variants, about, fabric)
    return out


def _about(
    recipe: Recipe,
    axes: Sequence[Axis],
    dataset: Dataset,
    drawn: splits.Protocol,
    fabric: Fabric,
) -> dict[str, Any]:
    """What ablation.json says of an ablation that begins."""
    rows = b"".join(fold.train.tobytes() + fold.test.tobytes() for fold in drawn.folds)
    return {
        "format": FORMAT,
        "command": command_line(),
        "finished": None,
        "versions": versions(),
        "device": device_name(fabric),
        "threads": torch.get_num_threads(),
        "recipe": recipes.to_dict(recipe),
        "axes": {axis.name: list(axis.values) for axis in axes},
        "manifest": {"name": dataset.manifest.name, "sha256": dataset.manifest.sha256()},
        "skipped": len(dataset.skipped),
        "classes": list(dataset.manifest.classes),
        "protocol": {"name": drawn.name, "note": drawn.note, "folds": len(drawn.folds)},
        "split": hashlib.sha256(rows).hexdigest(),
    }


def _unlabelled(
    data: str | Path | Manifest, variants: Sequence[Variant], dataset: Dataset, reporter: Reporter
) -> dict[tuple[Any, ...], str]:
    """Read the pictures in every way that a variant needs, so that none of them fails after hours of training.

    Only one further reading is in memory at a time; `_train` reads again.

    Args:
        dataset: what the recipe as it is reads.
    Returns:
        What `_needs` gives -> a hash of the pictures without a label; empty where there are none.
    Raises:
        UserError: If a variant's pictures can't be read, or are others than the recipe's.
    """
    found = {_needs(variants[0].recipe): _hash_of_unlabelled(dataset)}
    for variant in variants:
        if _needs(variant.recipe) in found:
            continue
        name = ", ".join(f"{axis}={value}" for axis, value in variant.values.items())
        try:
            read = load_pictures(data, variant.recipe, reporter)
        except UserError as error:
            raise UserError(f"{name}: {error}; or leave this value out") from error
        if read.manifest.sha256() != dataset.manifest.sha256():
            raise UserError(
                f"{name}: {len(read.manifest)} pictures can be read, expected the {len(dataset.manifest)} that can "
                "be read as the recipe says, since all variants are trained and tested on the same; leave this value "
                "out"
            )
        found[_needs(variant.recipe)] = _hash_of_unlabelled(read)
    return found


def _hash_of_unlabelled(dataset: Dataset) -> str:
    """Of the faces without a label and what is known of them, which decides where they may take part."""
    if not len(dataset.unlabelled_pixels):
        return ""
    hashed = hashlib.sha256(dataset.unlabelled_pixels.tobytes())
    hashed.update(dataset.unlabelled.sha256().encode())
    return hashed.hexdigest()


@dataclass(frozen=True, eq=False)
class _Planned:
    """A job with the variant it was planned for first; `shared` names the trainings that see the same pictures."""

    job: Job
    variant: Variant
    shared: tuple[Any, ...]


def _jobs(
    variants: Sequence[Variant],
    methods: Sequence[str],
    cuts: Sequence[Cut],
    seeds: Sequence[int],
    manifest: Manifest,
    out: Path,
    unlabelled: Mapping[tuple[Any, ...], str],
) -> dict[tuple[int, str], list[_Planned]]:
    """(number of the variant, method) -> its trainings over seeds and folds; `unlabelled` is of `_unlabelled`."""
    found: dict[tuple[int, str], list[_Planned]] = {}
    for number, variant in enumerate(variants):
        recipe = variant.recipe
        for method in (m for m in METHODS if m in methods):
            planned = found.setdefault((number, method), [])
            for seed, cut in product(seeds, cuts):
                rows = (
                    cut.train
                    if variant.pictures is None
                    else splits.subsample(manifest, cut.train, variant.pictures)
                )
                kept = with_calibration(Cut(cut.name, rows, cut.test), manifest, recipe.calibration_share)
                folder = out / "trainings"
                place = Path(f"{len(rows)}-pictures", f"seed-{seed}", cut.name)
                training = Training(method, cut.name, seed, 0, 0, len(kept.train), epochs_of(method, recipe))
                own = folder / f"{method}-{key(method, recipe, unlabelled[_needs(recipe)])}" / place
                teacher = folder / f"fine-tune-{key('fine-tune', recipe)}" / place
                job = Job(kept, training, own, teacher, folder / "views")
                shared = (_needs(recipe), len(rows), seed, cut.name)
                planned.append(_Planned(job, variant, shared))
    return found


def _teachers(item: _Planned) -> list[_Planned]:
    """The training of the fine-tuned face net that this one reads, so that it is told of as any other; or none."""
    recipe, training = item.variant.recipe, item.job.training
    chooses = training.method == "scratch" and recipe.face_net.tap == stages.AUTO
    if not recipe.face_net.fine_tuned or not (training.method == "fn2en" or chooses):
        return []
    training = replace(training, method="fine-tune", epochs=epochs_of("fine-tune", recipe))
    return [replace(item, job=replace(item.job, training=training, folder=item.job.teacher_folder))]


def key(method: str, recipe: Recipe, unlabelled: str = "") -> str:
    """Of all that a method's training depends on in a recipe; numbers at their default don't count.

    The labelled pictures are the same throughout an ablation; `unlabelled` is a hash of the others, where FN2EN's
    first stage sees some.
    """
    values = recipes.to_dict(recipe)
    usual = recipes.to_dict(Recipe())
    for section in _UNSEEN[method]:
        values.pop(section)
    if method == "fine-tune":
        values["face_net"].pop("tap")
        # early stopping anywhere in FN2EN keeps its inner part out of this stage, too
        watching = [stage for stage in (recipe.fine_tune, recipe.stage1, recipe.stage2) if stage.patience]
        if watching:
            values["fine_tune"]["inner_rows"] = watching[0].inner_share
    if method == "scratch" and recipe.face_net.tap == stages.AUTO:
        values["teacher"] = key("fine-tune", recipe)  # its layer is chosen on that face net
    if method == "fn2en" and unlabelled:
        values["unlabelled"] = unlabelled
    own = {
        name: {k: v for k, v in value.items() if v != usual[name].get(k)}
        if isinstance(value, dict)
        else value
        for name, value in values.items()
        if value != usual.get(name)
    }
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _train(
    planned: Mapping[tuple[int, str], Sequence[_Planned]],
    data: str | Path | Manifest,
    dataset: Dataset,
    device: str,
    reporter: Reporter,
    about: Mapping[str, Any],
) -> None:
    """Every training once, those that share pictures and views one after the other.

    Once one training of a variant's method has stopped, its others are left out: the row has no number without all.
    """
    once: dict[Path, _Planned] = {}
    users: dict[Path, set[tuple[int, str]]] = {}
    stopped = {place for place, items in planned.items() if _stopped(items)}
    for place, items in planned.items():
        for needed in (needed for item in items for needed in (*_teachers(item), item)):
            if place not in stopped:
                once.setdefault(needed.job.folder, needed)
                users.setdefault(needed.job.folder, set()).add(place)
    groups: dict[tuple[Any, ...], list[_Planned]] = {}
    for item in once.values():
        groups.setdefault(item.shared, []).append(item)
    needs = list(dict.fromkeys(shared[0] for shared in groups))
    manifest = {"name": dataset.manifest.name, "sha256": dataset.manifest.sha256()}
    facts = {name: about[name] for name in ("command", "versions", "device")}
    read, number = planned[min(planned)][0].variant.recipe, 0
    for shared in sorted(groups, key=lambda shared: needs.index(shared[0])):
        group = groups[shared]
        for item in sorted(group, key=lambda item: METHODS.index(item.job.training.method)):
            number += 1
            if users[item.job.folder] <= stopped:
                continue
            recipe, training = item.variant.recipe, item.job.training
            if _needs(recipe) != _needs(read):
                dataset, read = load_pictures(data, recipe, reporter), recipe
                if dataset.manifest.sha256() != manifest["sha256"]:
                    raise UserError(f"{manifest['name']}: its pictures changed while the ablation ran")
            job = replace(item.job, training=replace(training, number=number, total=len(once)))
            own = {"recipe": recipes.to_dict(recipe), "trained_on": manifest, "created": now(), **facts}
            fabric = open_device(device, recipe.precision)
            try:
                train_one(
                    job, dataset, recipe, fabric, reporter, {**own, "protocol": about["protocol"]["name"]}
                )
            except StageStopped as error:  # is a result, too: the others go on
                stopped |= users[job.folder]
                write_atomic(job.folder / STOPPED, str(error).encode())
                reporter.note(str(error))
        for folder in {item.job.views_folder for item in group if item.job.views_folder}:
            shutil.rmtree(folder, ignore_errors=True)


def _needs(recipe: Recipe) -> tuple[Any, ...]:
    """What of a recipe decides which pictures are read, and how."""
    return recipe.crop, recipe.stage1.unlabelled


def _conclude(
    out: Path,
    planned: Mapping[tuple[int, str], Sequence[_Planned]],
    variants: Sequence[Variant],
    about: dict[str, Any],
    fabric: Fabric,
) -> None:
    from facenet2expnet.report.ablation_page import write_ablation

    predictions, rows = [], []
    ended = {place: items for place, items in planned.items() if not _stopped(items)}
    if not ended:
        raise UserError(f"{out}: every variant was stopped; {_stopped(next(iter(planned.values())))}")
    for (number, method), items in ended.items():
        table = pd.concat([pd.read_parquet(item.job.folder / "predictions.parquet") for item in items])
        table["method"] = row_name(number, method)
        predictions.append(table)
    every = pd.concat(predictions, ignore_index=True)
    every.to_parquet(out / "predictions.parquet", index=False)
    for (number, method), items in planned.items():
        changed = {f"axis {axis}": variants[number].values.get(axis, "") for axis in about["axes"]}
        row = {"number": number, **changed, "method": method, "pictures": items[0].job.training.pictures}
        row |= _scores(number, method, items, every, about, fabric) if (number, method) in ended else {}
        row |= {"folder": str(items[0].job.folder.relative_to(out)), "stopped": _stopped(items)}
        rows.append(row)
    pd.DataFrame(rows).to_csv(out / "table.csv", index=False)
    write_json(out / RECORD, {**about, "finished": now()})
    write_ablation(out)


def _stopped(items: Sequence[_Planned]) -> str:
    """Why one of the trainings, or of the face nets that they read, was stopped; empty where none was."""
    told = [needed.job.folder / STOPPED for item in items for needed in (*_teachers(item), item)]
    return next((path.read_text(encoding="utf-8") for path in told if path.is_file()), "")


def row_name(number: int, method: str) -> str:
    """What a variant's method is called in predictions.parquet; 0 is the recipe as it is."""
    return f"{number} {method}"


def _scores(
    number: int,
    method: str,
    items: Sequence[_Planned],
    every: pd.DataFrame,
    about: Mapping[str, Any],
    fabric: Fabric,
) -> dict[str, Any]:
    """What a row of table.csv tells of trainings that ended."""
    name, base = row_name(number, method), row_name(0, method)
    scores = scores_of_method(every[every["method"] == name], about["classes"])
    over = scores["std_over_seeds"] if len(about["seeds"]) > 1 else scores["std"]
    spread = over.get("accuracy")
    history = pd.concat([pd.read_csv(item.job.folder / "history.csv", dtype={"fold": str}) for item in items])
    history = history.reindex(columns=[*history.columns.drop("inner", errors="ignore"), "inner"])
    stage1 = history[history["stage"] == "stage1"]
    if stage1["inner"].notna().any():  # the stage took back the weights of its best epoch
        stage1 = stage1.sort_values("inner", ascending=False)
    last = stage1.groupby(["seed", "fold"]).tail(1)
    job, crop_px = items[0].job, items[0].variant.recipe.crop.crop_px
    size = asdict(measure(method, load_model(job.folder / "model").module, crop_px, fabric.device))
    test = asdict(compare_paired(every, name, base)) if number and base in set(every["method"]) else {}
    return {
        "accuracy": scores["mean"]["accuracy"],
        "spread": math.nan if spread is None else spread,
        "spread_over": "seeds" if len(about["seeds"]) > 1 else "folds",
        **{k: scores["mean"][k] for k in ("balanced_accuracy", "macro_f1", "negative_log_likelihood")},
        "expected_calibration_error": scores["pooled"]["expected_calibration_error"],
        "r2": float(last["r2"].mean()) if len(last) else math.nan,
        "training_seconds": float(history["seconds"].sum()) / len(items),
        **{k: size[k] for k in ("parameters", "multiply_adds", "ms_per_picture")},
        **{k: test.get(k, math.nan) for k in ("difference", "low", "high", "p_value", "units")},
        "unit": test.get("unit", ""),
    }
