"""fn2en evaluate, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facenet2expnet.cli.model import ModelFolder, TableFile
from facenet2expnet.cli.run import MODELS, Data, Device, MergeLabels, Quiet, with_merged_labels


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(evaluate)
    app.command()(calibrate)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"Expected: {MODELS}.")],
    data: Data,
    out: TableFile = None,
    part: Annotated[
        str,
        typer.Option(
            help="Part to use, if the data has parts: train, valid, test or all. auto: test, else valid, else all."
        ),
    ] = "auto",
    merge_labels: MergeLabels = "",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on labelled faces.

    Example: fn2en evaluate runs/mine faces/ --out predictions.csv
    """
    import facenet2expnet
    from facenet2expnet.cli import console
    from facenet2expnet.cli.outputs import write_table
    from facenet2expnet.predict.table import check_table_name
    from facenet2expnet.report import tables

    if out:
        check_table_name(out, (".csv", ".json", ".parquet"))
    with console.progress(quiet) as display:
        found = facenet2expnet.evaluate(
            model, with_merged_labels(data, merge_labels), part=part, device=device,
            progress=display.of("reading faces"),
        )  # fmt: skip
    written = write_table(found.predictions, found.skipped, out) if out else []
    for note in found.notes:
        print(note)
    console.out.print(tables.to_rich(tables.comparison_text(found.metrics)))
    for method in found.metrics["methods"].values():
        console.out.print(tables.to_rich(tables.per_class_text(method)))
    for line in written:
        print(line)


def calibrate(
    model: ModelFolder,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A new folder for the model. By default the model is changed in place."),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="Part to use, if the data has parts: train, valid, test or all. auto: valid, else all without test."
        ),
    ] = "auto",
    merge_labels: MergeLabels = "",
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Calibrate a model's probabilities on labelled faces that it was not trained on; its predictions stay the same.

    Example: fn2en calibrate runs/mine new-faces/ --out calibrated
    """
    from facenet2expnet.cli import console
    from facenet2expnet.experiment import calibration

    with console.progress(quiet) as display:
        labelled = with_merged_labels(data, merge_labels)
        found = calibration.calibrate(
            model, labelled, out=out, part=part, device=device, progress=display.of("reading faces")
        )
    for skipped in found.skipped:
        print(f"left out: {skipped.image}: {skipped.reason}")
    for note in found.notes:
        print(note)
    print(f"temperature {found.temperature:.3f}, fitted on {found.pictures:,} pictures")
    losses, errors = ([scores[name] for scores in (found.before, found.after)] for name in found.before)
    print("log loss: {:.3f} before, {:.3f} after".format(*losses))
    print("calibration error: {:.1%} before, {:.1%} after".format(*errors))
    print(f"model:  {found.folder}")
