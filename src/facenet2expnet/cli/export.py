"""fn2en export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facenet2expnet.cli.run import Quiet


def add(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(export)


def export(
    model: Annotated[Path, typer.Argument(help="A model folder, a run folder with one model, or a shipped model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    int8: Annotated[bool, typer.Option("--int8", help="Numbers of 8 bits: a quarter of the size, and faster.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Numbers of 16 bits: half the size.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Faces to compare with PyTorch on, best those of the training: a folder of class folders, a manifest "
            "or a face store. By default the bundled sample."
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0, max=100, help="Points of accuracy that --int8 and --fp16 may lose.")
    ] = 0.5,
    quiet: Quiet = False,
) -> None:
    """Write a model as one ONNX file that runs without PyTorch, if it answers as PyTorch does on real faces.

    Example: fn2en export runs/mine model.onnx
    """
    from facenet2expnet.cli import console
    from facenet2expnet.deploy.onnx import export as write
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.sources import printable

    if int8 and fp16:
        raise UserError("--int8 and --fp16 exclude each other; write two files")
    precision = "int8" if int8 else "float16" if fp16 else "float32"
    with console.progress(quiet) as display:
        made = write(
            model, out, precision=precision, data=data, max_drop=max_drop, progress=display.of("reading faces")
        )
    if made.calibrated_on:
        print(f"calibrated on {made.calibrated_on:,} other faces of {made.agreement.data}")
    for line in made.agreement.lines():
        print(line)
    print(f"{printable(str(made.path))}: {made.precision}, {made.size / 1e6:.1f} MB")
