"""fn2en quickstart, train, compare, ablate, pretrain, status, report, recipe."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

MODEL_FOLDERS = "a model folder, a run, hf:owner/name, or a model of the package: standard or small"
MODELS = MODEL_FOLDERS.replace("a run", "a run, an ONNX file")
"""What a command takes as a model, for its help."""

Data = Annotated[
    Path, typer.Argument(help="A folder of class folders, a CSV or Parquet manifest, or a folder of prepared faces.")
]
RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="quick, best, paper, or a TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting of the recipe, as stage1.epochs=10. Repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The run folder. By default a new one in runs/.")]
Protocol = Annotated[
    str, typer.Option(help="auto, subject-groups, leave-one-subject-out, stratified, split, fold, official or a file.")
]
Folds = Annotated[int, typer.Option(min=2, help="Number of folds, if the protocol does not fix it.")]
FirstFolds = Annotated[int | None, typer.Option(min=1, help="Run only the first N folds.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds, counted from 0.")]
MergeLabels = Annotated[
    str,
    typer.Option(
        "--merge-labels",
        help="auto: labels that look like one class, as happy and happiness, become one; FILE.csv: rename labels by "
        "its lines from,to.",
    ),
]
DropNear = Annotated[
    bool, typer.Option("--drop-near", help="Also take near-duplicates of test pictures out of the training part.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads of each job. By default the cores, shared out among the jobs; with --engine ray 1."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1,
        help="Number of trainings at once. By default 1; with --engine ray as many as the cluster has CPUs for.",
    ),
]  # fmt: skip
Gpus = Annotated[
    str | None, typer.Option(help="Train on these GPUs side by side, as 0,1 (values of CUDA_VISIBLE_DEVICES).")
]
JobsPerGpu = Annotated[
    int, typer.Option("--jobs-per-gpu", min=1, help="Trainings that share a GPU of --gpus, or of the Ray cluster.")
]
Join = Annotated[
    bool, typer.Option("--join", help="Share the jobs in --out with other machines that run the same command.")
]
Engine = Annotated[
    str,
    typer.Option(
        help="local: on this machine; ray: on the nodes of a Ray cluster, which must all see --out under one path."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="With --engine ray: the cluster, as HOST:6379. By default RAY_ADDRESS, or that of this machine."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and warnings only.")]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Run only this method: scratch, fine-tune or fn2en. Repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda or mps.")]

ON_PHOTOGRAPHS = {"from scratch": 68.7, "fine-tuned face net": 75.0, "FN2EN": 76.1}
"""Accuracies in per cent of docs/results.md, "FER+, 1,000 pictures"; a test compares them."""

ON_THE_PAGE = ("units", "balanced accuracy, %", "log loss", "weights, M", "multiply-adds, M")
"""Columns of an ablation that a terminal has no room for."""


def with_merged_labels(data: Path, merge_labels: str) -> Any:
    """Return the data with its labels merged or renamed as --merge-labels says; unchanged without it."""
    from facenet2expnet.data.manifest import read_manifest
    from facenet2expnet.errors import UserError
    from facenet2expnet.faces.store import is_store

    if not merge_labels:
        return data
    if is_store(data):
        raise UserError(
            f"{data} holds prepared faces, whose labels stay; prepare them again: --merge-labels is for folders and "
            "tables (fn2en data prepare folder: --option merge_labels=auto)"
        )
    return read_manifest(data, merge_labels=merge_labels)


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    for command in (quickstart, train, compare, ablate, pretrain, status, report, recipe):
        app.command()(command)


def quickstart(
    out: Out = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 2,
    first_folds: FirstFolds = None,
    settings: Settings = None,
    device: Device = "auto",
    threads: Threads = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Trainings side by side. By default one per core, at most one per fold."
        ),
    ] = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train on the bundled sample: FN2EN and both baselines of the paper, a report, and a model to use.

    Example: fn2en quickstart
    """
    from dataclasses import replace

    from facenet2expnet.data.bundled import sample_folder
    from facenet2expnet.data.manifest import read_manifest
    from facenet2expnet.predict.model_folder import CARD

    out = out or _new_run("quickstart", resume)
    side_by_side, threads = _share_cores(min(folds, first_folds or folds), device, threads)
    jobs = jobs or side_by_side
    sample: Any = replace(read_manifest(sample_folder() / "manifest.csv"), name="the bundled sample")
    compare(
        sample, settings=settings, out=out, folds=folds, first_folds=first_folds, device=device, threads=threads,
        jobs=jobs, resume=resume, quiet=quiet,
    )  # fmt: skip
    model = min(out.rglob(f"fn2en/model/{CARD}")).parent
    print(f"model:  {model}")
    print(f"try it: fn2en predict {model} PICTURE")
    print(
        "The sample is rendered; the shipped start has seen photographs only. With 1,000 photographs (FER2013, FER+):"
    )
    found = ", ".join(f"{method} {accuracy} %" for method, accuracy in ON_PHOTOGRAPHS.items())
    print(f"{found}; see docs/results.md")


def train(
    data: Data,
    recipe: RecipeName = "quick",
    settings: Settings = None,
    out: Out = None,
    method: Annotated[str, typer.Option(help="What to train: scratch, fine-tune or fn2en.")] = "fn2en",
    holdout: Annotated[
        bool, typer.Option(help="Keep a tenth (by subject), or the manifest's own test split, for testing.")
    ] = True,
    protocol: Protocol = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    drop_near: DropNear = False,
    merge_labels: MergeLabels = "",
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train one model on labelled faces.

    Example: fn2en train faces/ --recipe best --out runs/mine
    """
    import facenet2expnet
    from facenet2expnet import recipes
    from facenet2expnet.cli import console

    with console.progress(quiet) as display:
        run = facenet2expnet.train(
            with_merged_labels(data, merge_labels),
            recipe=recipes.override(recipes.load(recipe), settings or []), out=out or _new_run("train", resume),
            method=method, holdout=holdout, protocol=protocol, seed=seed, drop_near=drop_near,
            device=device, threads=threads, resume=resume, progress=display,
        )  # fmt: skip
    _print_comparison(run)
    print(f"model:  {run / 'model'}")


def compare(
    data: Data,
    recipe: RecipeName = "quick",
    settings: Settings = None,
    out: Out = None,
    methods: Methods = None,
    protocol: Protocol = "auto",
    folds: Folds = 10,
    first_folds: FirstFolds = None,
    seeds: Seeds = 1,
    drop_near: DropNear = False,
    merge_labels: MergeLabels = "",
    device: Device = "auto",
    threads: Threads = None,
    jobs: Jobs = None,
    gpus: Gpus = None,
    jobs_per_gpu: JobsPerGpu = 1,
    join: Join = False,
    engine: Engine = "local",
    address: Address = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Compare training from scratch, the fine-tuned face net and FN2EN over all folds, with a report.

    Example: fn2en compare faces/ --folds 5 --set stage1.epochs=60
    """
    import facenet2expnet
    from facenet2expnet import recipes
    from facenet2expnet.cli import console
    from facenet2expnet.experiment.job import METHODS

    with console.progress(quiet) as display:
        run = facenet2expnet.compare(
            with_merged_labels(data, merge_labels), recipe=recipes.override(recipes.load(recipe), settings or []),
            out=out or _new_run("compare", resume, join), methods=methods or METHODS, protocol=protocol, folds=folds,
            first_folds=first_folds, seeds=range(seeds), drop_near=drop_near, device=device, threads=threads, jobs=jobs,
            gpus=_names(gpus), jobs_per_gpu=jobs_per_gpu, join=join, engine=engine, address=address, resume=resume,
            progress=display,
        )  # fmt: skip
    _print_comparison(run)


def ablate(
    data: Data,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="A variant, such as stage2.soft_labels=0, pictures=500 or recipe=NAME; several changes are joined by "
            "' & '. Repeatable.",
        ),
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Train all methods on 250, 500, 1,000 pictures and so on.")
    ] = False,
    recipe: RecipeName = "best",
    settings: Settings = None,
    out: Out = None,
    methods: Methods = None,
    protocol: Protocol = "auto",
    folds: Folds = 10,
    first_folds: FirstFolds = None,
    seeds: Seeds = 1,
    drop_near: DropNear = False,
    merge_labels: MergeLabels = "",
    device: Device = "auto",
    threads: Threads = None,
    jobs: Jobs = None,
    gpus: Gpus = None,
    jobs_per_gpu: JobsPerGpu = 1,
    join: Join = False,
    engine: Engine = "local",
    address: Address = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train variants of a recipe, one change at a time, and compare each with the unchanged recipe.

    Example: fn2en ablate faces/ --vary face_net.tap=level2 --vary stage1.epochs=40 --seeds 3 --out runs/ablation
    """
    from facenet2expnet.cli import console
    from facenet2expnet.experiment import ablation
    from facenet2expnet.experiment.job import METHODS
    from facenet2expnet.report import tables
    from facenet2expnet.report.ablation_page import read_ablation, table_text

    changes = [*(changes or []), *(["pictures=250.."] if learning_curve else [])]
    methods = methods or (list(METHODS) if learning_curve else ["fn2en"])
    with console.progress(quiet) as display:
        folder = ablation.ablate(
            with_merged_labels(data, merge_labels), changes, recipe=recipe, settings=settings or [],
            out=out or _new_run("ablation", resume, join), methods=methods, protocol=protocol, folds=folds,
            first_folds=first_folds, seeds=range(seeds), drop_near=drop_near, device=device, threads=threads, jobs=jobs,
            gpus=_names(gpus), jobs_per_gpu=jobs_per_gpu, join=join, engine=engine, address=address, resume=resume,
            progress=display,
        )  # fmt: skip
    table = table_text(read_ablation(folder))
    console.out.print(tables.to_rich(table.drop(columns=[c for c in ON_THE_PAGE if c in table])))
    print(f"report: {folder / 'report.html'}")


def pretrain(
    faces: Annotated[
        Path,
        typer.Argument(help="A folder of face pictures, a manifest, or a folder of prepared faces."),
    ],
    recipe: RecipeName = "quick",
    settings: Settings = None,
    out: Out = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the faces. By default the recipe's, or 20.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the pictures; saved with the start.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Teach an expression net the face net's features, once, on many faces without labels: a start for small sets.

    Example: fn2en pretrain faces/ --epochs 30 --out starts/mine
    """
    import facenet2expnet
    from facenet2expnet import recipes
    from facenet2expnet.cli import console

    with console.progress(quiet) as display:
        start = facenet2expnet.pretrain(
            faces, recipe=recipes.override(recipes.load(recipe), settings or []), out=out or _new_run("start", resume),
            epochs=epochs, licence=licence, seed=seed, device=device, threads=threads, resume=resume, progress=display,
        )  # fmt: skip
    print(f"start:  {start}")
    print(f"use it: fn2en train DATA --set expnet.start={start}")


def status(
    run: Annotated[Path, typer.Argument(help="The folder of a run or an ablation, finished or not.")],
) -> None:
    """Show which jobs of a run are done, running (where, since when), waiting, failed or left out, and why.

    Example: fn2en status runs/mine
    """
    from collections import Counter

    from rich.table import Table
    from rich.text import Text

    from facenet2expnet.cli import console
    from facenet2expnet.experiment.status import STATES, read_status
    from facenet2expnet.predict.sources import readable

    jobs = read_status(run)
    counts = Counter(job.state for job in jobs)
    print(f"{len(jobs)} jobs: " + ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s] or s != "left out"))
    table = Table("job", "state", "where", "since (UTC)", "reason")
    for job in jobs:
        if job.state not in ("done", "waiting"):
            values = (job.title, job.state, job.where, job.since, job.reason)
            table.add_row(*(Text(readable(value)) for value in values))  # no markup: [red] is a name like others
    if table.row_count:
        console.out.print(table)


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run or an ablation.")],
    analyses: Annotated[
        bool, typer.Option("--analyses", help="Compute the paper's analyses first and show them too.")
    ] = False,
) -> None:
    """Write the report page of a run or an ablation again.

    Example: fn2en report runs/mine
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.report.page import write_report

    if (run / "ablation.json").is_file():
        from facenet2expnet.report.ablation_page import write_ablation

        if analyses:
            raise UserError(f"{run} holds an ablation, expected a run for --analyses; leave the option out")
        print(write_ablation(run))
        return
    if analyses:
        from facenet2expnet.cli.analyse import run_all
        from facenet2expnet.report.run_folder import ANALYSES

        for result in run_all(run):
            result.save(run / ANALYSES)
    print(write_report(run))


def recipe(
    name: Annotated[str, typer.Argument(help="A preset or a TOML file.")] = "quick", settings: Settings = None
) -> None:
    """Print a complete recipe, to edit and use with --recipe.

    Example: fn2en recipe best > mine.toml
    """
    from facenet2expnet import recipes

    print(recipes.to_toml(recipes.override(recipes.load(name), settings or [])), end="")


def _print_comparison(run: Path) -> None:
    from facenet2expnet.cli import console
    from facenet2expnet.report import tables
    from facenet2expnet.report.run_folder import read_run

    folder = read_run(run)
    if folder.metrics is not None:  # nothing was tested without a held-out part
        table = tables.comparison_text(folder.metrics, folder.metadata["manifest"]["name"], folder.sizes)
        console.out.print(tables.to_rich(table))
        if folder.metrics["paired_tests"]:
            console.out.print(tables.to_rich(tables.paired_text(folder.metrics)))
        about_tests = [test[key] for key in ("covers", "reason") for test in folder.metrics["paired_tests"]]
        for sentence in dict.fromkeys([*about_tests, *folder.metadata.get("checks", [])]):
            console.out.print(sentence, markup=False)
    print(f"report: {run / 'report.html'}")


def _share_cores(folds: int, device: str, threads: int | None) -> tuple[int, int | None]:
    """Return how many jobs run side by side by default, and the threads of each, which do not depend on --jobs."""
    from facenet2expnet.device import choose_device
    from facenet2expnet.processor import cores

    if choose_device(device).type != "cpu":
        return 1, threads
    jobs = max(1, min(cores() // (threads or 1), folds))
    return jobs, threads or cores() // jobs


def _names(listed: str | None) -> list[str]:
    return [name.strip() for name in listed.split(",")] if listed else []


def _new_run(kind: str, resume: bool, join: bool = False) -> Path:
    """Name a run folder by the time; a run that is resumed or shared has to be named."""
    from facenet2expnet.errors import UserError

    if resume or join:
        raise UserError(f"--{'resume' if resume else 'join'} needs --out with the run folder to continue")
    return Path("runs") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
