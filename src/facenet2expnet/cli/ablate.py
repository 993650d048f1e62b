"""fn2en ablate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from facenet2expnet.cli.run import (
    Data,
    Device,
    Method,
    Out,
    Protocol,
    Quiet,
    RecipeName,
    Resume,
    Settings,
    Threads,
    Where,
    new_run,
)

if TYPE_CHECKING:
    from facenet2expnet.experiment.variants import Axis
    from facenet2expnet.recipe import Recipe

ON_THE_PAGE = ("units", "balanced accuracy, %", "log loss", "weights, M", "multiply-adds, M")
"""Columns that a terminal has no room for."""

LEARNING_CURVE = "250.."


def ablate(
    data: Data,
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            help="Of stage 1: a name, or a sum such as 'standardised-l2 + 0.5 * rkd'. Repeatable.",
        ),
    ] = None,
    taps: Annotated[
        list[str] | None,
        typer.Option(
            "--tap",
            help="Layer of the face net (fn2en nets lists them), 'level1 + level2', or auto. Repeatable.",
        ),
    ] = None,
    face_nets: Annotated[
        list[str] | None,
        typer.Option(
            "--face-net",
            help="NAME, or NAME=WEIGHTS, a path, hf:owner/name/file, https://…#sha256=HEX or generated. Repeatable.",
        ),
    ] = None,
    widths: Annotated[
        list[str] | None, typer.Option("--width", help="Of the expression net. Repeatable.")
    ] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--input-size", help="Side of the crop in pixels. Repeatable.")
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            "--pictures", help="How many to train on; 250.. is 250, 500, 1,000 and so on. Repeatable."
        ),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option(
            "--learning-curve", help="250, 500, 1,000, 2,000 and so on of the training pictures, all methods."
        ),
    ] = False,
    recipes: Annotated[
        list[str] | None,
        typer.Option("--against", help="Another recipe, a preset or a TOML file. Repeatable."),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--vary", help="Any number of the recipe, as stage2.soft_labels=0. Repeatable."),
    ] = None,
    cross: Annotated[
        bool, typer.Option("--cross", help="All combinations, instead of one axis at a time.")
    ] = False,
    recipe: RecipeName = "best",
    settings: Settings = None,
    out: Out = None,
    methods: Annotated[
        list[Method] | None, typer.Option("--method", help="fn2en only, unless given. Repeatable.")
    ] = None,
    steps_of: Annotated[
        int | None,
        typer.Option(
            "--steps-of",
            min=1,
            help="As many training steps as the epochs take over so many pictures, whatever their number.",
        ),
    ] = None,
    protocol: Protocol = "auto",
    folds: Annotated[int, typer.Option(min=2, help="How many, where the protocol leaves it open.")] = 10,
    first_folds: Annotated[int | None, typer.Option(min=1, help="Do only so many of them.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 1,
    device: Where = Device.auto,
    threads: Threads = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe with one thing changed at a time, on the same folds and seeds: what is each worth?

    Without any axis: every objective, and every layer of the face net that has maps.

    Example: fn2en ablate faces/ --objective srd --objective cosine --tap level2 --seeds 3 --out runs/ablation
    """
    from facenet2expnet import recipe as known
    from facenet2expnet.cli import console
    from facenet2expnet.experiment.ablation import ablate as run_ablation
    from facenet2expnet.experiment.run import Machine
    from facenet2expnet.report import tables
    from facenet2expnet.report.ablation_page import read_ablation, table_text

    base = known.override(known.load(recipe), settings or [])
    wanted = {
        "objective": objectives, "tap": taps, "face-net": face_nets, "width": widths, "input-size": sizes,
        "pictures": pictures, "recipe": recipes,
    }  # fmt: skip
    if learning_curve:
        wanted["pictures"] = [*(pictures or []), LEARNING_CURVE]
        methods = methods or list(Method)
    with console.progress(quiet) as reporter:
        folder = run_ablation(
            data, _axes(wanted, others or []) or _usual_axes(base), recipe=base, settings=settings or [],
            out=out or new_run("ablation", resume), cross=cross, methods=[m.value for m in methods or [Method.fn2en]],
            steps_of=steps_of, protocol=protocol, folds=folds, first_folds=first_folds, seeds=range(seeds),
            machine=Machine(device.value, threads), resume=resume, reporter=reporter,
        )  # fmt: skip
    table = table_text(read_ablation(folder))
    console.out.print(tables.to_rich(table.drop(columns=[c for c in ON_THE_PAGE if c in table])))
    print(f"report: {folder / 'report.html'}")


def _axes(wanted: dict[str, list[str] | None], others: list[str]) -> list[Axis]:
    from facenet2expnet.errors import UserError
    from facenet2expnet.experiment.variants import Axis

    named = {name: list(values) for name, values in wanted.items() if values}
    for setting in others:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--vary: '{setting}' sets nothing (expected e.g. stage2.soft_labels=0)")
        named.setdefault(name.strip(), []).append(value.strip())
    return [Axis(name, tuple(dict.fromkeys(values))) for name, values in named.items()]


def _usual_axes(base: Recipe) -> list[Axis]:
    """Every objective on features, and every layer with maps."""
    from facenet2expnet.experiment.variants import Axis
    from facenet2expnet.nets import face
    from facenet2expnet.training.losses import REGISTRY

    net = face.load(base.face_net.name, base.face_net.weights or None)
    maps = tuple(name for name, shape in net.info.taps.items() if len(shape) == 3)
    return [
        Axis("objective", tuple(name for name, kind in REGISTRY.items() if kind.reads == "features")),
        Axis("tap", maps),
    ]
