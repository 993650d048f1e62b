"""fn2en analyse: the paper's analyses and pictures, one command each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import nn

    from facenet2expnet.analysis.inputs import AnalysisInput
    from facenet2expnet.analysis.result import AnalysisResult

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="What the networks have learned: the paper's analyses, each with a table and a picture.",
)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A run folder, whose networks and pictures are taken; or labelled pictures, with networks by --net.",
    ),
]
Nets = Annotated[
    list[str] | None,
    typer.Option(
        "--net",
        help="A model folder, or a face net: NAME or NAME@WEIGHTS. Repeatable. By default those of the run.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for the files. By default DATA/analyses, or analyses."),
]
FoldName = Annotated[str, typer.Option("--fold", help="Fold of the run; by default its first.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Pictures = Annotated[int, typer.Option(min=0, help="At most so many pictures, drawn at random; 0 for all.")]
WhereText = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
Layer = Annotated[str, typer.Option("--layer", help="A layer of the network.")]


class Part(StrEnum):
    """Which of a run's pictures."""

    test = "test"
    train = "train"
    all = "all"


class ThresholdOf(StrEnum):
    """Whose layers give the threshold of low-entropy neurons."""

    both = "both"
    before = "before"
    each = "each"


class Projection(StrEnum):
    """How features are brought to two dimensions."""

    tsne = "tsne"
    umap = "umap"


PartOf = Annotated[Part, typer.Option("--part", help="Which of the run's pictures.")]


def add(parent: typer.Typer) -> None:
    """Mount the commands."""
    parent.add_typer(app, name="analyse")


@app.command()
def neurons(
    data: Source,
    nets: Nets = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", help="Repeatable. By default the last four before the scores."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures a neuron; by default the paper's 100, fewer for a small set."),
    ] = None,
    threshold: Annotated[
        ThresholdOf, typer.Option(help="The networks whose lowest mean is taken.")
    ] = ThresholdOf.both,
    part: PartOf = Part.all,
    fold: FoldName = "",
    pictures: Pictures = 0,
    seed: Seed = 0,
    out: Out = None,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """Which neurons speak of the classes, before and after fine-tuning, and which layer to transfer.

    With --net twice the first is "before", the second "after"; with --net once it is looked at alone.
    FN2EN, Table I and Fig. 3.

    Example: fn2en analyse neurons runs/mine
    """
    from facenet2expnet.analysis.inputs import PRE_TRAINED, default_layers
    from facenet2expnet.analysis.neurons import neurons as analyse
    from facenet2expnet.errors import UserError

    case = _case(data, nets, part, fold, pictures, seed, device, quiet)
    names = list(case.nets)[:2]
    if len(nets or []) > 2:
        raise UserError(f"got {len(nets or [])} networks, expected one, or two: before and after")
    if not nets and names[0] != PRE_TRAINED:
        names = names[:1]
    first, second = case.nets[names[0]], case.nets[names[-1]] if len(names) == 2 else None
    finding = analyse(
        first, second, case.pixels, case.labels, case.classes, crop_px=case.crop_px,
        layers=layers or default_layers(first, case.crop_px), top=top, threshold_of=threshold.value,
        names=(names[0], names[-1]),
    )  # fmt: skip
    _save([finding], data, out, case)


@app.command()
def mean_faces(
    data: Source,
    nets: Nets = None,
    layer: Layer = "",
    units: Annotated[
        list[int] | None, typer.Option("--neuron", help="Number of a neuron. Repeatable.")
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Neurons a class, where none are named.")] = 2,
    top: Annotated[
        int | None, typer.Option(min=1, help="Faces that are averaged; by default 30, fewer for a small set.")
    ] = None,
    part: PartOf = Part.all,
    fold: FoldName = "",
    pictures: Pictures = 0,
    seed: Seed = 0,
    out: Out = None,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """The mean of the faces that excite a neuron of the top hidden layer most. FN2EN, Figs. 4 and 5.

    Example: fn2en analyse mean-faces runs/mine --per-class 3
    """
    from facenet2expnet.analysis.inputs import EXPRESSION
    from facenet2expnet.analysis.mean_faces import mean_faces as analyse

    case = _case(data, nets, part, fold, pictures, seed, device, quiet)
    chosen = case.nets if nets else _of(case, EXPRESSION)
    findings = [
        analyse(
            net, case.pixels, case.labels, case.classes, crop_px=case.crop_px, layer=layer or None, units=units,
            per_class=per_class, top=top,
        )
        for net in chosen.values()
    ]  # fmt: skip
    _save(_named(findings, list(chosen)), data, out, case)


@app.command()
def deepdraw(
    data: Source,
    nets: Nets = None,
    layer: Layer = "scores",
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help="A class, or a number of --layer. Repeatable. All classes."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps in each of the four octaves.")] = 60,
    grey: Annotated[bool, typer.Option("--grey", help="Start from grey and not from the mean face.")] = False,
    part: PartOf = Part.train,
    fold: FoldName = "",
    pictures: Pictures = 0,
    seed: Seed = 0,
    out: Out = None,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """Pictures that a network would rate highest, one column a class, one row a network. FN2EN, Fig. 1.

    Example: fn2en analyse deepdraw runs/mine --target anger --target fear
    """
    from facenet2expnet.analysis.deepdraw import DrawRecipe
    from facenet2expnet.analysis.deepdraw import deepdraw as analyse
    from facenet2expnet.analysis.inputs import PRE_TRAINED

    case = _case(data, nets, part, fold, pictures, seed, device, quiet)
    chosen = {name: net for name, net in case.nets.items() if nets or name != PRE_TRAINED}
    numbers, names = _targets(targets, case, layer)
    finding = analyse(
        chosen, case.pixels, numbers, names, crop_px=case.crop_px, layer=layer,
        recipe=DrawRecipe(steps=steps, seed=seed), from_mean_face=not grey,
    )  # fmt: skip
    _save([finding], data, out, case)


@app.command()
def confusion(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A run folder, or a predictions table.")],
    methods: Annotated[list[str] | None, typer.Option("--method", help="Only these. Repeatable.")] = None,
    out: Out = None,
) -> None:
    """What is taken for what: confusion matrices of all methods side by side. FN2EN, Figs. 6 to 9.

    Example: fn2en analyse confusion runs/mine --method fn2en
    """
    from facenet2expnet.analysis.confusion import confusion as analyse
    from facenet2expnet.analysis.confusion import read_predictions
    from facenet2expnet.report.tables import NAMES

    predictions, classes = read_predictions(data)
    _save([analyse(predictions, classes, methods=methods, names=NAMES)], data, out, None)


@app.command()
def saliency(
    data: Source,
    nets: Nets = None,
    layer: Layer = "",
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each class that are averaged.")] = 20,
    shown: Annotated[int, typer.Option(min=1, help="Single pictures of each class.")] = 1,
    part: PartOf = Part.test,
    fold: FoldName = "",
    pictures: Pictures = 0,
    seed: Seed = 0,
    out: Out = None,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """Where a network looks: Grad-CAM and integrated gradients, averaged over each class and for single pictures.

    Example: fn2en analyse saliency runs/mine
    """
    from facenet2expnet.analysis.layers import can_probe
    from facenet2expnet.analysis.saliency import saliency as analyse

    case = _case(data, nets, part, fold, pictures, seed, device, quiet)
    chosen = {name: net for name, net in case.nets.items() if nets or can_probe(net)}
    findings = [
        analyse(
            net, case.pixels, case.labels, case.classes, crop_px=case.crop_px, layer=layer or None, per_class=per_class,
            shown=shown, seed=seed,
        )
        for net in chosen.values()
    ]  # fmt: skip
    _save(_named(findings, list(chosen)), data, out, case)


@app.command()
def compare_features(
    data: Source,
    nets: Nets = None,
    tap: Annotated[str, typer.Option(help="The face net's layer of stage 1; by default the recipe's.")] = "",
    projection: Annotated[
        Projection, typer.Option(help="tsne, or umap from the extra of that name.")
    ] = Projection.tsne,
    part: PartOf = Part.test,
    fold: FoldName = "",
    pictures: Pictures = 2000,
    seed: Seed = 0,
    out: Out = None,
    device: WhereText = "cpu",
    quiet: Quiet = False,
) -> None:
    """Face net beside expression net: what their features tell of expression and of identity, and how alike they are.

    Example: fn2en analyse compare-features runs/mine --part test
    """
    from facenet2expnet.analysis.compare_features import features_compared, stage_one_made_visible
    from facenet2expnet.analysis.inputs import EXPRESSION

    case = _case(data, nets, part, fold, pictures, seed, device, quiet, scratch=True)
    findings = [
        features_compared(
            case.nets, case.pixels, case.labels, case.classes, case.subjects, case.sequences, crop_px=case.crop_px,
            projection=projection.value, seed=seed,
        )
    ]  # fmt: skip
    student, teacher = case.net(EXPRESSION), case.net(case.teacher)
    if student is not None and teacher is not None:
        layer = tap or case.tap
        findings.append(
            stage_one_made_visible(
                student,
                teacher,
                case.pixels,
                crop_px=case.crop_px,
                teacher_layer=layer,
                names=(EXPRESSION, case.teacher),
            )
        )
    _save(findings, data, out, case)


@app.command("all")
def everything(
    data: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    fold: FoldName = "",
    seed: Seed = 0,
    out: Out = None,
    device: WhereText = "cpu",
) -> None:
    """All of them on a run, with their defaults.

    Example: fn2en analyse all runs/mine
    """
    from facenet2expnet.analysis.inputs import has_captum, run_all
    from facenet2expnet.analysis.saliency import WITHOUT

    for finding in run_all(data, fold=fold, device=device, seed=seed):
        _save([finding], data, out, None)
    if not has_captum():
        print(WITHOUT)


def _case(
    data: Path,
    nets: list[str] | None,
    part: Part,
    fold: str,
    pictures: int,
    seed: int,
    device: str,
    quiet: bool,
    scratch: bool = False,
) -> AnalysisInput:
    from facenet2expnet.analysis.inputs import load_inputs
    from facenet2expnet.cli import console

    with console.progress(quiet) as reporter:
        return load_inputs(
            data, nets or [], fold=fold, part=part.value, pictures=pictures, seed=seed, device=device,
            scratch=scratch, progress=reporter.faces,
        )  # fmt: skip


def _of(case: AnalysisInput, name: str) -> dict[str, nn.Module]:
    """The network of this name, or the last one where there is none of it."""
    return {name: case.nets[name]} if name in case.nets else dict(list(case.nets.items())[-1:])


def _targets(targets: list[str] | None, case: AnalysisInput, layer: str) -> tuple[list[int], list[str]]:
    """Target numbers and what they are called."""
    from facenet2expnet.errors import UserError

    if not targets:
        if layer != "scores":
            raise UserError(f"--layer {layer} needs --target with the number of a unit or channel")
        return list(range(len(case.classes))), list(case.classes)
    numbers = []
    for target in targets:
        if layer == "scores" and target in case.classes:
            numbers.append(case.classes.index(target))
        elif target.isdigit():
            numbers.append(int(target))
        else:
            expected = ", ".join(case.classes) if layer == "scores" else "a number"
            raise UserError(f"--target {target}: expected {expected}")
    return numbers, targets


def _named(findings: list[AnalysisResult], names: list[str]) -> list[AnalysisResult]:
    """Findings of several networks told apart by their file names and titles."""
    from dataclasses import replace

    if len(findings) == 1:
        return findings
    return [
        replace(finding, name=f"{finding.name}-{name.replace(' ', '-')}", title=f"{finding.title}: {name}")
        for finding, name in zip(findings, names, strict=True)
    ]


def _save(findings: list[AnalysisResult], data: Path, out: Path | None, case: AnalysisInput | None) -> None:
    """Print what was found and write the files."""
    from facenet2expnet.analysis.inputs import is_run
    from facenet2expnet.cli import console
    from facenet2expnet.report.analyses import FOLDER, readable_table
    from facenet2expnet.report.tables import to_rich

    folder = out or (data / FOLDER if is_run(data) else Path(FOLDER))
    for finding in findings:
        written = finding.save(folder)
        console.out.print(f"\n{finding.title}", markup=False, style="bold")
        console.out.print(to_rich(readable_table(finding.table)))
        console.out.print(f"{case.says} {finding.says}" if case else finding.says, markup=False)
        print("\n".join(str(path) for path in written))
