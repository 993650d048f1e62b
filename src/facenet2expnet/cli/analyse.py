"""fn2en analyse: the paper's analyses and figures, one command each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The paper's analyses of what the networks have learned, each with a table and a figure.",
)


class Part(StrEnum):
    """A part of a run's fold."""

    test = "test"
    train = "train"
    all = "all"


Option = typer.Option
DATA = "A run folder, whose networks and images are used; or labelled images, with --net."
NET = "A model folder, or a face net: NAME or NAME@WEIGHTS. Repeatable. By default those of the run."
TOP = "Images counted for each neuron. By default 100, fewer for a small set."
TARGET = "A class, or the number of a neuron. Repeatable. By default all classes."
Data = Annotated[Path, typer.Argument(metavar="DATA", help=DATA)]
Nets = Annotated[list[str] | None, Option("--net", help=NET)]
PartOf = Annotated[Part, Option("--part", help="The part of the run's images.")]
Fold = Annotated[str, Option("--fold", help="Fold of the run. By default its first.")]
Images = Annotated[int, Option("--pictures", min=0, help="At most this many, drawn at random; 0 for all.")]
Seed = Annotated[int, Option(help="Seed of all random draws.")]
Device = Annotated[str, Option("--device", help="Where to compute: auto, cpu, cuda or mps.")]
Out = Annotated[Path | None, Option("--out", "-o", help="The folder to write to. By default DATA/analyses.")]
Layers = Annotated[list[str] | None, Option("--layer", help="A layer. Repeatable. By default the last four.")]
Layer = Annotated[str, Option("--layer", help="The layer of the neurons. By default the top hidden layer.")]
TargetLayer = Annotated[str, Option("--layer", help="The layer of the targets.")]
Top = Annotated[int | None, Option(min=1, help=TOP)]
PerClass = Annotated[int, Option(min=1, help="Neurons of each class.")]
Targets = Annotated[list[str] | None, Option("--target", help=TARGET)]

Analyse = Callable[..., Iterable[Any]]
ANALYSES: list[tuple[Analyse, Part, tuple[str, ...]]] = []
"""What `all` computes: analysis input -> results; the part of the fold, and the networks of a run, by default."""


def _command(part: Part, *of_run: str) -> Callable[[Analyse], None]:
    """Register a command that loads its input by the shared options; `all` needs the last of its networks."""

    def register(analyse: Analyse) -> None:
        def run(
            data: Data, nets: Nets = None, part: PartOf = part, fold: Fold = "", images: Images = 0, seed: Seed = 0,
            device: Device = "auto", out: Out = None, **own: Any,
        ) -> None:  # fmt: skip
            from facenet2expnet.analysis.inputs import load_inputs

            inputs = load_inputs(data, nets or (), fold=fold, part=part, images=images, seed=seed, device=device)
            if not nets:
                inputs = inputs.only(*of_run)
            _save(analyse(inputs, **own), data, out, inputs.summary)

        shared = list(inspect.signature(run, eval_str=True).parameters.values())[:-1]
        own = list(inspect.signature(analyse, eval_str=True).parameters.values())[1:]
        run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        run.__doc__ = analyse.__doc__
        app.command(analyse.__name__.replace("_", "-"))(run)
        ANALYSES.append((analyse, part, of_run))

    return register


PRE_TRAINED, FINE_TUNED, EXPRESSION = "pre-trained face net", "fine-tuned face net", "expression net"


@_command(Part.all, PRE_TRAINED, FINE_TUNED)
def neurons(inputs: Any, layers: Layers = None, top: Top = None) -> Iterable[Any]:
    """Count the neurons that respond to few classes, before and after fine-tuning; name the layer to transfer.

    With --net twice the first is "before", the second "after"; or give one network. FN2EN, Table I and Fig. 3.

    Example: fn2en analyse neurons runs/mine
    """
    from facenet2expnet.analysis.neurons import neurons

    yield neurons(inputs, layers or (), top)


@_command(Part.all, EXPRESSION)
def mean_faces(inputs: Any, layer: Layer = "", per_class: PerClass = 2) -> Iterable[Any]:
    """Average the faces with the highest response of a neuron of the top hidden layer. FN2EN, Figs. 4 and 5.

    Example: fn2en analyse mean-faces runs/mine --per-class 3
    """
    from facenet2expnet.analysis.neurons import mean_faces

    yield mean_faces(inputs, layer=layer, per_class=per_class)


@_command(Part.train, FINE_TUNED, EXPRESSION)
def deepdraw(inputs: Any, layer: TargetLayer = "scores", targets: Targets = None) -> Iterable[Any]:
    """Draw images that maximise a response, one column a class, one row a network. FN2EN, Fig. 1.

    Example: fn2en analyse deepdraw runs/mine --target anger --target fear
    """
    from facenet2expnet.analysis.deepdraw import deepdraw

    yield deepdraw(inputs, targets or (), layer=layer)


@_command(Part.test, EXPRESSION)
def saliency(inputs: Any) -> Iterable[Any]:
    """Show where a network looks: integrated gradients, averaged over each class.

    Example: fn2en analyse saliency runs/mine
    """
    from facenet2expnet.analysis.saliency import saliency

    yield saliency(inputs)


@_command(Part.test)
def compare_features(inputs: Any) -> Iterable[Any]:
    """Compare how much expression and identity the networks' features hold, and what remains of stage 1.

    Example: fn2en analyse compare-features runs/mine --pictures 2000
    """
    from facenet2expnet.analysis.compare_features import compare_features
    from facenet2expnet.analysis.stage1 import stage1

    yield compare_features(inputs)
    if inputs.tap and {EXPRESSION, inputs.teacher} <= set(inputs.nets):
        yield stage1(inputs)


@app.command()
def confusion(data: Data, out: Out = None) -> None:
    """Draw the confusion matrices of all methods, from a run or a predictions table. FN2EN, Figs. 6 to 9.

    Example: fn2en analyse confusion runs/mine
    """
    from facenet2expnet.analysis.confusion import confusion, read_predictions

    _save([confusion(read_predictions(data))], data, out)


@app.command("all")
def everything(data: Data, fold: Fold = "", seed: Seed = 0, device: Device = "auto", out: Out = None) -> None:
    """Compute all analyses of a run, with their defaults.

    Example: fn2en analyse all runs/mine
    """
    if (data / "predictions.parquet").is_file():
        confusion(data, out)
    _save(run_all(data, fold, seed, device), data, out)


def run_all(run: Path, fold: str = "", seed: int = 0, device: str = "auto") -> Iterator[Any]:
    """Compute the analyses of a run that its networks allow, in the paper's order."""
    from facenet2expnet.analysis.inputs import load_inputs

    loaded = {part: load_inputs(run, fold=fold, part=part, seed=seed, device=device) for part in Part}
    for analyse, part, of_run in ANALYSES:
        if set(of_run[-1:]) <= set(loaded[part].nets):
            yield from analyse(loaded[part].only(*of_run))


def _save(results: Iterable[Any], data: Path, out: Path | None, images: str = "") -> None:
    """Print each result and write its files."""
    from facenet2expnet.cli import console
    from facenet2expnet.report.run_folder import ANALYSES
    from facenet2expnet.report.tables import as_text, to_rich

    folder = out or (data / ANALYSES if (data / "run.json").is_file() else Path(ANALYSES))
    for result in results:
        written = result.save(folder)
        console.out.print(f"\n{result.title}", markup=False, style="bold")
        console.out.print(to_rich(as_text(result.table)))
        console.out.print(f"{images} {result.summary}".strip(), markup=False)
        print(*written, sep="\n")
