"""fn2en analyse: the paper's analyses and figures, one command each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What the networks have learned: the paper's analyses, each with a table and a figure.",
)


class Part(StrEnum):
    """A part of a run's fold."""

    test = "test"
    train = "train"
    all = "all"


DATA = typer.Argument(
    metavar="DATA", help="A run folder, whose networks and images are used; or labelled images, with --net."
)
NET = typer.Option(
    "--net", help="A model folder, or a face net: NAME or NAME@WEIGHTS. Repeatable. By default those of the run."
)
Data = Annotated[Path, DATA]
Nets = Annotated[list[str] | None, NET]
PartOf = Annotated[Part, typer.Option("--part", help="Which of the run's images.")]
Fold = Annotated[str, typer.Option("--fold", help="Fold of the run; by default its first.")]
Images = Annotated[int, typer.Option("--pictures", min=0, help="At most this many, drawn at random; 0 for all.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn at random.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write. By default DATA/analyses.")]
Layers = Annotated[list[str] | None, typer.Option("--layer", help="Repeatable. By default the last four.")]
Layer = Annotated[str, typer.Option("--layer", help="A layer of the network.")]
Top = Annotated[int | None, typer.Option(min=1, help="Images a neuron. By default 100, fewer for a small set.")]
PerClass = Annotated[int, typer.Option(min=1, help="How many for each class.")]
Targets = Annotated[list[str] | None, typer.Option("--target", help="A class, or a number of --layer. Repeatable.")]
Steps = Annotated[int, typer.Option(min=1, help="Gradient steps in each of the four octaves.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Only these. Repeatable.")]


def add(parent: typer.Typer) -> None:
    """Mount the commands."""
    parent.add_typer(app, name="analyse")


def _command(part: Part, *of_run: str, images: int = 0) -> Callable[[Callable[..., Iterable[Any]]], None]:
    """Register a command: load its input by the shared options, print and save its results.

    Args:
        part: default of --part.
        of_run: names of the run's networks that it looks at; none for all.
        images: default of --pictures.
    """

    def register(analyse: Callable[..., Iterable[Any]]) -> None:
        def run(
            data: Data, nets: Nets = None, part: PartOf = part, fold: Fold = "", images: Images = images, seed: Seed = 0,
            device: Device = "cpu", out: Out = None, **own: Any,
        ) -> None:  # fmt: skip
            from facenet2expnet.analysis.inputs import load_inputs

            inputs = load_inputs(
                data, nets or [], fold=fold, part=part.value, images=images, seed=seed, device=device
            )
            if of_run and not nets:
                inputs = inputs.only(*of_run)
            _save(analyse(inputs, **own), data, out, inputs.summary)

        shared = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
        own = list(inspect.signature(analyse, eval_str=True).parameters.values())[1:]
        run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        run.__doc__ = analyse.__doc__
        app.command(analyse.__name__.replace("_", "-"))(run)

    return register


@_command(Part.all, "pre-trained face net", "fine-tuned face net")
def neurons(inputs: Any, layers: Layers = None, top: Top = None) -> Iterable[Any]:
    """Count the neurons that respond to few classes, before and after fine-tuning; name the layer to transfer.

    With --net twice the first is "before", the second "after"; or give one network. FN2EN, Table I and Fig. 3.

    Example: fn2en analyse neurons runs/mine
    """
    from facenet2expnet.analysis.neurons import neurons

    yield neurons(inputs, layers, top)


@_command(Part.all, "expression net")
def mean_faces(inputs: Any, layer: Layer = "", per_class: PerClass = 2) -> Iterable[Any]:
    """Average the faces with the highest response of a neuron of the top hidden layer. FN2EN, Figs. 4 and 5.

    Example: fn2en analyse mean-faces runs/mine --per-class 3
    """
    from facenet2expnet.analysis.mean_faces import mean_faces

    yield mean_faces(inputs, layer=layer, per_class=per_class)


@_command(Part.train, "fine-tuned face net", "expression net")
def deepdraw(inputs: Any, layer: Layer = "scores", targets: Targets = None, steps: Steps = 60) -> Iterable[Any]:
    """Draw images that maximise a response, one column a class, one row a network. FN2EN, Fig. 1.

    Example: fn2en analyse deepdraw runs/mine --target anger --target fear
    """
    from facenet2expnet.analysis.deepdraw import deepdraw

    yield deepdraw(inputs, targets or (), layer=layer, steps=steps)


@_command(Part.test, "expression net")
def saliency(inputs: Any, per_class: PerClass = 20) -> Iterable[Any]:
    """Show where a network looks: integrated gradients, averaged over each class and for one image each.

    Example: fn2en analyse saliency runs/mine
    """
    from facenet2expnet.analysis.saliency import saliency

    yield saliency(inputs, per_class)


@_command(Part.test, images=2000)
def compare_features(inputs: Any) -> Iterable[Any]:
    """Compare face net and expression net: expression and identity in their features, and their similarity.

    Example: fn2en analyse compare-features runs/mine
    """
    from facenet2expnet.analysis.compare_features import compare_features
    from facenet2expnet.analysis.inputs import EXPRESSION
    from facenet2expnet.analysis.similarity import stage1_similarity

    yield compare_features(inputs)
    if {EXPRESSION, inputs.teacher} <= set(inputs.nets):
        yield stage1_similarity(inputs)


@app.command()
def confusion(data: Data, methods: Methods = None, out: Out = None) -> None:
    """Draw the confusion matrices of all methods, from a run or a predictions table. FN2EN, Figs. 6 to 9.

    Example: fn2en analyse confusion runs/mine --method fn2en
    """
    from facenet2expnet.analysis import confusion as analysis

    _save([analysis.confusion(analysis.read_predictions(data), methods)], data, out)


@app.command("all")
def everything(data: Data, fold: Fold = "", seed: Seed = 0, device: Device = "cpu", out: Out = None) -> None:
    """Compute all of them for a run, with the defaults.

    Example: fn2en analyse all runs/mine
    """
    from facenet2expnet.analysis.run_all import run_all

    _save(run_all(data, fold=fold, seed=seed, device=device), data, out)


def _save(results: Iterable[Any], data: Path, out: Path | None, images: str = "") -> None:
    """Print each result and write its files."""
    from facenet2expnet.cli import console
    from facenet2expnet.report.analyses import FOLDER, readable_table
    from facenet2expnet.report.tables import to_rich

    folder = out or (data / FOLDER if (data / "run.json").is_file() else Path(FOLDER))
    for result in results:
        written = result.save(folder)
        console.out.print(f"\n{result.title}", markup=False, style="bold")
        console.out.print(to_rich(readable_table(result.table)))
        console.out.print(f"{images} {result.summary}".strip(), markup=False)
        print("\n".join(str(path) for path in written))
