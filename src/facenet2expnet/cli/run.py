"""fn2en quickstart, train, compare, report, recipe."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from facenet2expnet.data.manifest import Manifest

DATA = typer.Argument(
    help="A folder of class folders, a CSV or Parquet manifest, or a folder of prepared faces."
)
Data = Annotated[Path, DATA]
RecipeName = Annotated[
    str, typer.Option("--recipe", "-r", help="quick, normalised, best, paper, or a TOML file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a number of the recipe, as stage1.epochs=10. Repeatable."),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="The run folder. By default a new one below runs/.")
]
Protocol = Annotated[
    str,
    typer.Option(
        help="auto, subject-groups, leave-one-subject-out, stratified, split, fold, official, or a split file."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the CPU.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was interrupted; name it by --out.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Method(StrEnum):
    """The paper's two baselines and its method."""

    scratch = "scratch"
    fine_tune = "fine-tune"
    fn2en = "fn2en"


Where = Annotated[Device, typer.Option("--device", help="Where to compute.")]


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(quickstart)
    app.command()(train)
    app.command()(compare)
    app.command()(report)
    app.command()(recipe)


def quickstart(
    out: Out = None,
    folds: Annotated[int, typer.Option(min=2, help="Groups that the sample's subjects are cut into.")] = 2,
    first_folds: Annotated[int | None, typer.Option(min=1, help="Do only so many of them.")] = None,
    settings: Settings = None,
    device: Where = Device.auto,
    threads: Threads = None,
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

    sample = replace(read_manifest(sample_folder() / "manifest.csv"), name="the bundled sample")
    run = compare_and_print(
        sample, "quick", settings, out or new_run("quickstart", resume), list(Method),
        folds=folds, first_folds=first_folds, device=device,
        threads=threads, resume=resume, quiet=quiet,
    )  # fmt: skip
    model = min(run.rglob(f"fn2en/model/{CARD}")).parent
    print(f"model:  {model}")
    print(f"try it: fn2en predict {model} PICTURE")


def train(
    data: Data,
    recipe: RecipeName = "quick",
    settings: Settings = None,
    out: Out = None,
    method: Annotated[Method, typer.Option(help="What to train.")] = Method.fn2en,
    holdout: Annotated[
        bool, typer.Option(help="Keep a tenth (by subject), or the manifest's own test split, for testing.")
    ] = True,
    protocol: Protocol = "auto",
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    device: Where = Device.auto,
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train one model on labelled faces.

    Example: fn2en train faces/ --recipe normalised --out runs/mine
    """
    from facenet2expnet import recipe as recipes
    from facenet2expnet.cli import console
    from facenet2expnet.experiment.run import Machine
    from facenet2expnet.experiment.run import train as train_model

    chosen = recipes.override(recipes.load(recipe), settings or [])
    out = out or new_run("train", resume)
    with console.progress(quiet) as reporter:
        run = train_model(
            data, recipe=chosen, out=out, method=method.value, holdout=holdout, protocol=protocol, seed=seed,
            machine=Machine(device.value, threads), resume=resume, reporter=reporter,
        )  # fmt: skip
    if holdout:
        _print_comparison(run)
    print(f"report: {run / 'report.html'}")
    print(f"model:  {run / 'model'}")


def compare(
    data: Data,
    recipe: RecipeName = "quick",
    settings: Settings = None,
    out: Out = None,
    methods: Annotated[list[Method] | None, typer.Option("--method", help="Only these. Repeatable.")] = None,
    protocol: Protocol = "auto",
    folds: Annotated[int, typer.Option(min=2, help="How many, where the protocol leaves it open.")] = 10,
    first_folds: Annotated[int | None, typer.Option(min=1, help="Do only so many of them.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 1,
    device: Where = Device.auto,
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Compare training from scratch, the fine-tuned face net and FN2EN over all folds, with a report.

    Example: fn2en compare faces/ --folds 5 --set stage1.epochs=60
    """
    compare_and_print(
        data, recipe, settings, out or new_run("compare", resume), methods or list(Method), protocol=protocol,
        folds=folds, first_folds=first_folds, seeds=seeds, device=device, threads=threads, resume=resume, quiet=quiet,
    )  # fmt: skip


def compare_and_print(
    data: Path | Manifest,
    recipe: str,
    settings: list[str] | None,
    out: Path,
    methods: list[Method],
    *,
    protocol: str = "auto",
    folds: int = 10,
    first_folds: int | None = None,
    seeds: int = 1,
    device: Device = Device.auto,
    threads: int | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Run `compare`, print its table and where the report is."""
    from facenet2expnet import recipe as recipes
    from facenet2expnet.cli import console
    from facenet2expnet.experiment.run import Machine
    from facenet2expnet.experiment.run import compare as compare_methods

    chosen = recipes.override(recipes.load(recipe), settings or [])
    with console.progress(quiet) as reporter:
        run = compare_methods(
            data, recipe=chosen, out=out, methods=[method.value for method in methods], protocol=protocol,
            folds=folds, first_folds=first_folds, seeds=range(seeds), machine=Machine(device.value, threads),
            resume=resume, reporter=reporter,
        )  # fmt: skip
    _print_comparison(run)
    print(f"report: {run / 'report.html'}")
    return run


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run or an ablation.")],
    analyses: Annotated[
        bool, typer.Option("--analyses", help="Compute the paper's analyses first and show them, too.")
    ] = False,
) -> None:
    """Write the report of a run or an ablation again.

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
        from facenet2expnet.analysis.inputs import has_captum, run_all
        from facenet2expnet.analysis.saliency import WITHOUT
        from facenet2expnet.report.analyses import FOLDER

        for finding in run_all(run):
            finding.save(run / FOLDER)
        if not has_captum():
            print(WITHOUT)
    print(write_report(run))


def recipe(
    name: Annotated[str, typer.Argument(help="A preset or a TOML file.")] = "quick", settings: Settings = None
) -> None:
    """Print a whole recipe, to be changed and given back with --recipe.

    Example: fn2en recipe normalised > mine.toml
    """
    import tomli_w

    from facenet2expnet import recipe as recipes

    print(tomli_w.dumps(recipes.to_dict(recipes.override(recipes.load(name), settings or []))), end="")


def _print_comparison(run: Path) -> None:
    from facenet2expnet.cli import console
    from facenet2expnet.report import tables
    from facenet2expnet.report.run_folder import read_run

    folder = read_run(run)
    if folder.metrics is None:
        return
    table = tables.comparison_text(folder.metrics, folder.metadata["manifest"]["name"], folder.sizes)
    console.out.print(tables.to_rich(table))
    if folder.metrics["paired_tests"]:
        console.out.print(tables.to_rich(tables.paired_text(folder.metrics)))
    if folder.metadata["protocol"]["note"]:
        console.out.print(folder.metadata["protocol"]["note"], markup=False)


def new_run(kind: str, resume: bool) -> Path:
    """A run folder named by the time; a run that goes on has to be named."""
    from facenet2expnet.errors import UserError

    if resume:
        raise UserError("--resume needs --out with the run folder to go on with")
    return Path("runs") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
